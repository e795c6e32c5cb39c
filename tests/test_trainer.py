"""One update: what each setting moves, and what it leaves alone."""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import pytest
import torch
from gymnasium import spaces
from support import HOST, leaves, seeded
from torch import nn

import pgtorch.gradient_check
from pgtorch import BiasPolicy, GradientMismatchError, MLPPolicy, NonFiniteError, TrainConfig, Trainer
from pgtorch.distributions import as_global_stream
from pgtorch.proof.twin import require_twin
from pgtorch.returns import weigh

CART = {
    "num_envs": 4,
    "num_steps": 20,
    "num_updates": 10,
    "hidden_sizes": (8,),
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "value_learning_rate": 0.1,
    "learning_rate_schedule": "constant",
    "discount": 0.9,
    "gae_lambda": 0.8,
    "standardize": False,
    "max_gradient_norm": None,
    "normalize_observations": False,
    "normalize_rewards": False,
    "check_gradient": 0,
}


def cart(policy=None, **settings):
    """A trainer on CartPole-v1 with plain settings."""
    return Trainer(TrainConfig("CartPole-v1", **{**CART, **settings}), policy)


def test_update_is_the_lessons_step():
    """Every update moves the bias by -learning rate x reward x the lesson's derivative, for the visit just paid."""
    trainer = Trainer(TrainConfig(seed=5, learning_rate=0.5))
    for _ in range(50):
        before = trainer.policy.bias.item()
        trainer.update()
        visit = trainer.collector.rollout
        hunger, action, reward = visit.observation[0].item(), visit.action.item(), visit.reward.item()
        p_norm = 1 / (1 + math.exp(-(20 * hunger + before)))
        derivative = -(1 - p_norm) if action == 1 else p_norm
        assert trainer.policy.bias.item() == pytest.approx(before - 0.5 * reward * derivative, abs=1e-5)


def test_updates_and_environment_steps_are_counted():
    trainer = Trainer(TrainConfig(num_envs=3, num_steps=4))
    for number in range(1, 4):
        trainer.update()
        assert (trainer.num_updates, trainer.num_env_steps) == (number, 12 * number)


def test_filler_is_not_counted():
    trainer = Trainer(TrainConfig("CartPole-v1", **{**CART, "vectorization": "sync", "num_steps": 60}))
    trainer.update()
    rollout = trainer.collector.rollout
    assert trainer.num_env_steps == rollout.valid.sum() < rollout.valid.numel()
    trainer.close()


# A table of all settings

RATES = {"policy", "value"}
POLICY = {"policy gradient", "policy"}
VALUE = {"value gradient", "value"}
BOTH = POLICY | VALUE
WEIGHTS = {"multiplier", "target"} | BOTH


class Row(NamedTuple):
    """A setting: its value, what it moves in the last of so many updates; beside it, what else is set."""

    name: str
    value: Any
    moves: set[str]
    updates: int = 1
    beside: dict[str, Any] = {}  # noqa: RUF012 -- never changed
    may_move: frozenset[str] = frozenset()


PLAYED = frozenset({"observation", "action", "reward", "scaled reward"})  # first weights and actions share a stream
ONE_RATE, SEVERAL = {"value_learning_rate": None}, {"num_epochs": 4, "learning_rate": 5.0}
TABLE = [
    Row("learning_rate", 0.2, {"policy"}),
    Row("learning_rate", 0.2, RATES, beside=ONE_RATE),
    Row("value_learning_rate", 0.2, {"value"}),
    Row("value_learning_rate", None, {"value"}, beside={"learning_rate": 0.3}),
    Row("value_learning_rate", None, set()),  # which is the policy's
    Row("learning_rate_schedule", "linear", set()),  # the first update has the full rate
    Row("learning_rate_schedule", "linear", RATES, updates=2),
    Row("num_updates", 20, set(), updates=2),
    Row("num_updates", 20, RATES, updates=2, beside={"learning_rate_schedule": "linear"}),
    Row("optimizer", "adam", RATES),
    Row("optimizer", "torch.optim.SGD", set()),
    Row("optimizer", "torch.optim.RMSprop", RATES),
    Row("num_epochs", 2, BOTH),
    Row("num_minibatches", 4, BOTH),
    Row("clip_range", 0.01, POLICY, beside=SEVERAL),
    Row("clip_range", 0.01, set()),  # with one step a rollout the policy has not moved
    Row("multiplier", "reward-to-go", WEIGHTS),
    Row("multiplier", "return", WEIGHTS),
    Row("multiplier", "reward", WEIGHTS),
    Row("multiplier", "one", WEIGHTS),
    Row("wrong_sign", True, {"multiplier"} | POLICY),
    Row("baseline", "none", set()),  # gae subtracts the value anyway
    Row("baseline", "mean", {"multiplier"} | POLICY),
    Row("baseline", "mean", {"multiplier"} | POLICY, beside={"multiplier": "reward", "baseline": "none"}),
    Row("baseline", "value", WEIGHTS, beside={"multiplier": "reward-to-go", "baseline": "none"}, may_move=PLAYED),
    Row("discount", 0.95, WEIGHTS),
    Row("discount", 0.95, {"scaled reward"} | WEIGHTS, beside={"normalize_rewards": True}),
    Row("gae_lambda", 0.7, WEIGHTS),
    Row("gae_lambda", 0.7, set(), beside={"multiplier": "reward-to-go"}),
    Row("standardize", True, {"multiplier"} | POLICY),
    Row("entropy_coefficient", 0.1, POLICY),
    Row("value_coefficient", 0.1, VALUE),
    Row("value_coefficient", 0.0, VALUE),
    Row("max_gradient_norm", 1e-3, BOTH),
    Row("max_gradient_norm", 1e6, set()),
    Row("normalize_observations", True, {"observation"} | WEIGHTS, updates=2, may_move=frozenset({"action"})),
    Row("normalize_rewards", True, {"scaled reward"} | WEIGHTS),
    Row("seed", 1, {"observation", "action"} | WEIGHTS, may_move=PLAYED),
    Row("hidden_sizes", (9,), WEIGHTS, may_move=PLAYED),
    Row("activation", "relu", WEIGHTS, may_move=PLAYED),
    Row("activation", "relu", set(), beside={"hidden_sizes": ()}),
    *(Row("check_gradient", number, set(), updates=2) for number in (1, 2, 5)),
    Row("num_threads", 2, set()),
    Row("target_return", 1.0, set(), updates=2),
    Row("track_best", True, set(), updates=2),
    Row("evaluate_every", 1, set(), updates=2),  # nor anything in a run; see test_evaluator
    Row("evaluation_episodes", 7, set()),
    Row("run_dir", "somewhere", set()),
    Row("checkpoint_every", 1, set()),
    Row("pictures", False, set()),
]
ELSEWHERE = {"env_id", "env_kwargs", "num_envs", "num_shards", "num_steps", "policy", "policy_kwargs", "vectorization"}
ELSEWHERE |= {"step_timeout", "check_update", "weight", "start_bias", "device"}


def observables(monkeypatch, updates, settings):
    """What the last of some updates saw, weighed and moved, by name."""
    seen = {}

    def spy(*arguments):
        batch = weigh(*arguments)
        seen["multiplier"], seen["target"] = batch.multiplier, batch.target
        return batch

    monkeypatch.setattr("pgtorch.trainer.weigh", spy)
    trainer = cart(**settings)
    for _ in range(updates):
        trainer.update()
    rollout = trainer.collector.rollout
    seen |= {"observation": rollout.observation, "action": rollout.action}
    seen |= {"reward": rollout.reward, "scaled reward": rollout.scaled_reward}
    for name, module in (("policy", trainer.policy), ("value", trainer.value_function)):
        parameters = [] if module is None else list(module.parameters())
        seen[name] = parameters
        seen[f"{name} gradient"] = [parameter.grad for parameter in parameters]
    return {name: leaves(value) for name, value in seen.items()}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.name}={row.value}")
def test_a_setting_moves_what_it_is_for_and_nothing_else(monkeypatch, row):
    assert {**dataclasses.asdict(cart(**row.beside).config)}[row.name] != row.value
    before, after = (
        observables(monkeypatch, row.updates, {**row.beside, **setting}) for setting in ({}, {row.name: row.value})
    )
    moved = {name for name in before if before[name] != after[name]}
    assert row.moves <= moved <= row.moves | row.may_move


def test_every_setting_is_in_the_table():
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    assert names - ELSEWHERE == {row.name for row in TABLE}


@pytest.mark.parametrize(
    ("env_id", "given", "rate"),
    [
        ("FrozenLake-v1", {}, 1e-3),
        ("Blackjack-v1", {}, 1e-3),
        ("Acrobot-v1", {}, 3e-4),
        ("FrozenLake-v1", {"learning_rate": 0.2}, 0.2),
        ("CartPole-v1", {}, 3e-3),
        ("CartPole-v1", {"learning_rate": None}, 3e-4),
    ],
)
def test_without_a_learning_rate_the_observations_choose(env_id, given, rate):
    trainer = Trainer(TrainConfig(env_id, num_envs=2, num_steps=4, **given))
    assert trainer.optimizers["policy"].learning_rate == rate
    trainer.close()


def test_the_value_function_may_use_that_rate():
    trainer = Trainer(TrainConfig("FrozenLake-v1", num_envs=2, num_steps=4, value_learning_rate=None))
    assert trainer.optimizers["value"].learning_rate == 1e-3
    trainer.close()


# How far a setting moves it


def moves(updates, **settings):
    """How far each parameter of both networks moves in the last of some updates."""
    trainer = cart(**settings)
    for _ in range(updates - 1):
        trainer.update()
    modules = {"policy": trainer.policy, "value": trainer.value_function}
    before = {name: [p.detach().clone() for p in module.parameters()] for name, module in modules.items()}
    trainer.update()
    return {
        name: torch.cat([(p - q).detach().flatten() for p, q in zip(module.parameters(), before[name], strict=True)])
        for name, module in modules.items()
    }


@pytest.mark.parametrize(
    ("setting", "factors"),
    [
        ({"learning_rate": 0.3}, {"policy": 3, "value": 1}),
        ({"value_learning_rate": 0.3}, {"policy": 1, "value": 3}),
        ({"value_coefficient": 1.0}, {"policy": 1, "value": 2}),  # from 0.5
        ({"learning_rate_schedule": "linear"}, {"policy": 0.9, "value": 0.9}),  # the second of ten updates
    ],
)
def test_a_step_is_longer_by_what_a_setting_says(setting, factors):
    """Of the first update, but for the decay, which leaves the first as it is."""
    updates = 2 if "learning_rate_schedule" in setting else 1
    usual, changed = moves(updates), moves(updates, **setting)
    for name, factor in factors.items():
        torch.testing.assert_close(changed[name], factor * usual[name], rtol=1e-3, atol=1e-6)
        assert usual[name].abs().max() > 1e-3


@pytest.mark.parametrize("num_updates", [1, 2, 5])
def test_the_learning_rate_decays_to_one_part_in_the_last_update(monkeypatch, num_updates):
    factors = []
    trainer = cart(num_updates=num_updates, learning_rate_schedule="linear")
    for optimizer in trainer.optimizers.values():
        monkeypatch.setattr(optimizer, "step", factors.append)
    for _ in range(num_updates):
        trainer.update()
    assert factors[::2] == factors[1::2] == pytest.approx([1 - i / num_updates for i in range(num_updates)])


def test_the_gradient_of_each_network_is_clipped_by_itself():
    """The limit lies between their norms: one is shortened to it, the other stays."""
    norms = {name: step.norm().item() / 0.1 for name, step in moves(1).items()}
    limit = math.sqrt(norms["policy"] * norms["value"])
    short, long = sorted(norms, key=norms.get)
    assert norms[long] > 2 * norms[short]
    usual, clipped = moves(1), moves(1, max_gradient_norm=limit)
    assert torch.equal(clipped[short], usual[short])
    torch.testing.assert_close(clipped[long], usual[long] * limit / norms[long], rtol=1e-3, atol=1e-7)


def test_the_gradient_norm_is_that_before_clipping():
    free, clipped = (cart(max_gradient_norm=limit).update() for limit in (None, 1e-3))
    assert free["gradient/norm"] == clipped["gradient/norm"] > 1e-2


def certain_policy():
    """A policy that mostly pushes right."""
    with as_global_stream(seeded()):
        policy = MLPPolicy(spaces.Box(-9, 9, (4,)), spaces.Discrete(2), ())
    policy.layers[0].bias.data = torch.tensor([0.0, 3.0])
    return policy


def test_an_entropy_bonus_raises_the_entropy():
    """It starts at 0.19; rewards that are all alike give no gradient of their own."""
    entropies = {}
    for coefficient in (0.0, 1.0):
        trainer = cart(certain_policy(), entropy_coefficient=coefficient, multiplier="reward", baseline="mean")
        entropies[coefficient] = [trainer.update()["policy/entropy"] for _ in range(60)]
    assert entropies[0.0][0] == entropies[1.0][0] < 0.2
    assert entropies[1.0][-1] > 0.4
    assert entropies[0.0][-1] < 0.3


def test_the_entropy_bonus_is_minus_its_coefficient_times_the_mean_entropy():
    plain, bonus = (cart(certain_policy(), entropy_coefficient=coefficient) for coefficient in (0.0, 0.7))
    observation = {}
    for trainer in (plain, bonus):
        policy = certain_policy()
        trainer.update()
        rollout = trainer.collector.rollout
        observation[trainer] = rollout.rows(rollout.observation[:-1])
    (-0.7 * policy.distribution(observation[bonus]).entropy().mean()).backward()
    for with_bonus, without, own in zip(
        *(p.policy.parameters() for p in (bonus, plain)), policy.parameters(), strict=True
    ):
        torch.testing.assert_close(with_bonus.grad - without.grad, own.grad, rtol=1e-4, atol=1e-6)
        assert own.grad.abs().max() > 0.01


@pytest.mark.parametrize("multiplier", ["return", "reward-to-go", "gae"])
def test_a_value_function_learns_what_it_is_to_return(multiplier):
    trainer = cart(multiplier=multiplier, baseline="value", value_learning_rate=0.1, num_steps=64)
    errors = [trainer.update()["loss/value"] for _ in range(20)]
    assert sum(errors[-5:]) < 0.5 * sum(errors[:5])


# Several gradient steps a rollout


def test_several_passes_are_ppo():
    """Three passes in five parts each, beside the objective as its paper has it."""
    settings = {"num_epochs": 3, "num_minibatches": 5, "clip_range": 0.1, "check_gradient": 1}
    settings |= {"num_steps": 8, "learning_rate": 1.0, "value_learning_rate": 1.0}
    ours, theirs = cart(**settings), cart(**settings)
    figures = ours.update()  # the gradient of each part is checked
    assert figures["gradient/difference_in_units_of_u_c"] < 32

    rollout = theirs.collector.collect(theirs.policy, theirs.generator)
    batch = weigh(rollout, theirs.value_function, theirs.config)
    policy, value_function = theirs.policy, theirs.value_function
    optimizer = torch.optim.SGD([*policy.parameters(), *value_function.parameters()], lr=1.0)
    old_log_prob, cut_off = policy.log_prob(batch.observation, batch.action).detach(), 0
    for _ in range(3):
        for rows in torch.randperm(32, generator=theirs.generator).split([7, 7, 6, 6, 6]):
            log_prob = policy.log_prob(batch.observation[rows], batch.action[rows])
            ratio, advantage = (log_prob - old_log_prob[rows]).exp(), batch.multiplier[rows]
            clipped = ratio.clamp(0.9, 1.1)
            cut_off += int((clipped * advantage < ratio * advantage).sum())
            objective = torch.min(ratio * advantage, clipped * advantage).mean()
            error = (value_function(batch.observation[rows]) - batch.target[rows]).square().mean()
            optimizer.zero_grad()
            (0.5 * error - objective).backward()
            optimizer.step()
    assert cut_off > 0
    for one, other in ((ours.policy, policy), (ours.value_function, value_function)):
        for name, parameter in one.named_parameters():
            assert torch.allclose(parameter, other.get_parameter(name), rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize(
    ("rows", "epochs", "minibatches", "sizes"),
    [(3, 1, 3, [1, 1, 1]), (7, 2, 3, [3, 2, 2] * 2), (4, 3, 1, [4] * 3), (4, 1, 1, [4])],
)
def test_each_pass_takes_every_row_once_in_no_more_parts_than_rows(rows, epochs, minibatches, sizes):
    trainer = Trainer(TrainConfig(num_envs=rows, num_epochs=epochs, num_minibatches=minibatches, check_gradient=0))
    seen, distribution = [], trainer.policy.distribution

    def spy(observation):
        if torch.is_grad_enabled():
            seen.append(observation.flatten().tolist())
        return distribution(observation)

    trainer.policy.distribution = spy
    trainer.update()
    played = trainer.collector.rollout.observation[0].flatten().tolist()
    hunger = sorted(played)
    assert [len(part) for part in seen] == sizes
    if epochs == minibatches == 1:
        assert seen == [played]  # as they came: nothing is drawn
    per_pass = len(seen) // epochs
    passes = [[*itertools.chain(*seen[i : i + per_pass])] for i in range(0, len(seen), per_pass)]
    assert all(sorted(part) == hunger for part in passes)
    if epochs > 1 and minibatches > 1:
        assert passes[0] != passes[1]  # each in an order of its own


# The check of the gradient


def test_the_largest_difference_of_several_steps_is_kept(monkeypatch):
    found = itertools.cycle([1.0, 3.0, 2.0])
    tags = ("gradient/absolute_difference", "gradient/difference_in_units_of_u_c")
    monkeypatch.setattr("pgtorch.trainer.check_gradient", lambda *_, **__: dict.fromkeys(tags, next(found)))
    trainer = Trainer(TrainConfig(check_gradient=2, num_epochs=3))
    assert not set(tags) & trainer.update().keys()
    figures = trainer.update()
    assert [figures[tag] for tag in tags] == [3.0, 3.0]


def test_a_network_is_checked_every_k_updates():
    trainer = cart(check_gradient=3)
    units = [trainer.update().get("gradient/difference_in_units_of_u_c") for _ in range(9)]
    assert [number for number, unit in enumerate(units, 1) if unit is not None] == [3, 6, 9]
    assert all(unit < 32 for unit in units if unit is not None)
    assert any(unit for unit in units)


@pytest.mark.parametrize("settings", [{}, {"entropy_coefficient": 0.5}, {"num_epochs": 2}])
@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_checked_is_the_policys_loss_alone(settings, frozen):
    """With a bonus, with weights, with a parameter that does not learn: the right gradient passes."""
    trainer = cart(check_gradient=1, **settings)
    if frozen:
        trainer.policy.layers[0].bias.requires_grad_(False)
    for _ in range(3):
        assert trainer.update()["gradient/difference_in_units_of_u_c"] < 32


@pytest.mark.parametrize("settings", [{}, {"entropy_coefficient": 0.5}, {"num_epochs": 2, "num_minibatches": 2}])
def test_a_wrong_gradient_is_found_and_no_step_is_taken_along_it(monkeypatch, settings):
    right = pgtorch.gradient_check.manual_gradient
    trainer = cart(check_gradient=2, **settings)
    trainer.update()

    def wrong(*arguments):
        return {name: 1.001 * gradient for name, gradient in right(*arguments).items()}

    monkeypatch.setattr(pgtorch.gradient_check, "manual_gradient", wrong)
    before = leaves(list(trainer.policy.parameters()))
    with pytest.raises(GradientMismatchError, match=r"step \d{3}, .*gradient of layers\.\d\.\w+ by autograd"):
        trainer.update()
    assert leaves(list(trainer.policy.parameters())) == before


class Mine(BiasPolicy):
    """No derivation by hand."""


def test_a_policy_without_a_derivation_can_be_trained_unchecked():
    with pytest.raises(TypeError, match="check_gradient must be 0 for Mine: there is a derivation by hand for "):
        Trainer(TrainConfig(check_gradient=1), Mine())
    trainer = Trainer(TrainConfig(num_envs=50), Mine())
    assert "gradient/manual" not in trainer.update()
    assert trainer.policy.bias.item() != 0


@pytest.mark.parametrize(("policy", "period"), [(None, 20), (Mine(), 0)], ids=["mlp", "mine"])
def test_a_gradient_is_checked_as_often_as_its_policy_allows(policy, period):
    config = TrainConfig("CartPole-v1") if policy is None else TrainConfig()
    assert Trainer(config, policy).check_period == period
    assert Trainer(TrainConfig()).check_period == 1


# A policy with a value function of its own

OWN = {"num_envs": 4, "num_steps": 8, "optimizer": "sgd", "learning_rate": 0.1, "learning_rate_schedule": "constant"}
OWN |= {"max_gradient_norm": None, "value_coefficient": 0.25}


def own(name="own:ActorCritic", **settings):
    return Trainer(TrainConfig("CartPole-v1", policy=name, **{**OWN, **settings}))


@pytest.mark.parametrize("max_norm", [None, 0.01])
def test_shared_units_take_one_step_for_both_losses(max_norm):
    trainer, twin = own(max_gradient_norm=max_norm), own()
    assert list(trainer.optimizers) == ["policy"]
    rollout = twin.collector.collect(twin.policy, twin.generator)
    batch = weigh(rollout, twin.policy.value, twin.config)
    log_prob, value = twin.policy.log_prob(batch.observation, batch.action), twin.policy.value(batch.observation)
    loss = -(log_prob * batch.multiplier).mean() + 0.25 * (value - batch.target).square().mean()
    parameters = list(twin.policy.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    factor = 1.0 if max_norm is None else max_norm / norm
    assert trainer.update()["gradient/norm"] == pytest.approx(norm.item(), rel=1e-5)
    for found, parameter, gradient in zip(trainer.policy.parameters(), parameters, gradients, strict=True):
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(found.detach(), parameter.detach() - 0.1 * factor * gradient, rtol=1e-5, atol=1e-8)


def test_the_values_are_the_policys_own():
    trainer = own()
    observation = torch.randn(5, 4, generator=seeded())
    assert torch.equal(trainer.value_function(observation), trainer.policy.value(observation))
    assert own("own:Actor").value_function(observation).shape == (5,)
    assert list(own("own:Actor").optimizers) == ["policy", "value"]
    assert own(multiplier="reward-to-go", baseline="none").value_function is None
    with pytest.raises(TypeError, match=r"^Column\.value must return shape \[4\], got \[4, 1\]"):
        own("own:Column")
    with pytest.raises(TypeError, match="check_update must be 0 for ActorCritic: the reference has only BiasPolicy"):
        require_twin(trainer)


# Figures


def test_figures_are_of_the_rollout_and_of_the_policy_that_played_it():
    """The rate is tiny, so that the policy is still the one that played."""
    policy = MLPPolicy(spaces.Box(-9, 9, (4,)), spaces.Discrete(2))
    trainer = cart(policy, num_envs=3, num_steps=40, learning_rate=1e-9, multiplier="reward", baseline="none")
    figures = trainer.update()
    rollout = trainer.collector.rollout
    parts = (rollout.observation[:-1], rollout.action, rollout.reward)
    observation, action, multiplier = (rollout.rows(part) for part in parts)
    log_prob, entropy = policy.log_prob(observation, action), policy.distribution(observation).entropy()
    norm = math.sqrt(sum(parameter.grad.square().sum().item() for parameter in policy.parameters()))
    assert figures["gradient/norm"] == pytest.approx(norm)
    assert figures["policy/entropy"] == pytest.approx(entropy.mean().item(), rel=1e-5)
    assert figures["loss/policy_gradient"] == pytest.approx(-(log_prob * multiplier).mean().item(), rel=1e-5)
    assert "loss/value" not in figures
    ended = rollout.terminated | rollout.truncated
    assert ended.any()
    assert figures["rollout/episode_length"] == figures["rollout/episode_return"] > 1


def test_the_loss_of_the_value_function_is_its_mean_squared_error():
    trainer = cart(value_learning_rate=1e-9)
    figures = trainer.update()
    batch = weigh(trainer.collector.rollout, trainer.value_function, trainer.config)
    error = (trainer.value_function(batch.observation) - batch.target).square().mean().item()
    assert figures["loss/value"] == pytest.approx(error, rel=1e-5)


def test_figures_are_plain_numbers():
    trainer = cart(check_gradient=1, num_steps=60)
    assert all(type(value) is float for value in trainer.update().values())


# What is not finite moves nothing


@pytest.mark.parametrize("network", ["policy", "value_function"])
def test_a_gradient_that_is_not_finite_moves_neither_network(network):
    trainer = cart()
    trainer.update()
    first = next(getattr(trainer, network).parameters())
    first.register_hook(lambda gradient: gradient * math.inf)
    before = leaves([*trainer.policy.parameters(), *trainer.value_function.parameters()])
    with pytest.raises(
        NonFiniteError, match=r"^update 2, step \d{3}: .*gradient.* must be finite, got .*learning_rate"
    ):
        trainer.update()
    assert leaves([*trainer.policy.parameters(), *trainer.value_function.parameters()]) == before


# Randomness, and the process around it


def test_the_seed_makes_the_first_weights():
    first, again, other = (leaves(list(cart(seed=seed).policy.parameters())) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_nothing_is_read_from_the_global_streams():
    def played(outside):
        torch.manual_seed(outside)
        trainer = cart(num_epochs=2, num_minibatches=3)
        return [trainer.update() for _ in range(3)], leaves(list(trainer.policy.parameters()))

    assert played(1) == played(2)


@pytest.mark.parametrize("name", HOST)
@pytest.mark.parametrize("settings", [{}, {"num_epochs": 2, "num_minibatches": 2}, {"vectorization": "sync"}], ids=str)
def test_a_trainer_leaves_its_host_as_it_was(name, settings):
    """Making it, an update, and closing it."""
    torch.set_num_threads(1)  # in case that another test's trainer has changed it
    before = HOST[name]()
    trainer = cart(check_gradient=1, num_threads=3, **settings)
    assert HOST[name]() == before
    trainer.update()
    assert HOST[name]() == before
    trainer.close()
    assert HOST[name]() == before


@pytest.mark.parametrize("name", HOST)
def test_a_policy_of_a_users_own_leaves_the_host_as_it_was(name):
    class Mine(BiasPolicy):
        def distribution(self, observation):
            return torch.distributions.Bernoulli(logits=self(observation))

        noise = pgtorch.Policy.noise

    trainer = Trainer(TrainConfig(check_gradient=0, num_envs=4), Mine())
    before = HOST[name]()
    trainer.update()
    assert HOST[name]() == before


def test_a_policy_that_does_not_fit_is_found_before_anything_is_played():
    class Wrong(MLPPolicy):
        def distribution(self, observation):
            return super().distribution(observation[:1])

    policy = Wrong(spaces.Box(-9, 9, (4,)), spaces.Discrete(2))
    with pytest.raises(TypeError, match=r"^Wrong .* observations \[4, 4\]"):
        cart(policy)
    with pytest.raises(TypeError, match="MLPPolicy has nothing to learn"):
        cart(nn.Module.requires_grad_(MLPPolicy(spaces.Box(-9, 9, (4,)), spaces.Discrete(2)), False))
