import numpy as np
import torch
from gymnasium.utils import seeding

from pgtorch import TrainConfig
from pgtorch.lesson.learners import _Apart, _Generators, train_together


def test_numbers_apart_are_computed_as_if_alone():
    z = torch.linspace(-30, 30, 5000)
    alone = torch.cat([torch.sigmoid(part) for part in z.split(1)])
    with _Apart():
        assert torch.equal(torch.sigmoid(z), alone)


def test_gradients_pass_through():
    z, a = torch.linspace(-30, 30, 2000), (torch.arange(2000) % 2).float()
    gradients = []
    for part, action in zip(z.split(1), a.split(1), strict=True):
        (leaf := part.clone()).requires_grad_()
        torch.binary_cross_entropy_with_logits(leaf, action).sum().backward()
        gradients.append(leaf.grad)
    z.requires_grad_()
    with _Apart():
        torch.binary_cross_entropy_with_logits(z, a).sum().backward()
    assert torch.equal(z.grad, torch.cat(gradients))


def test_generators_beside_each_other_draw_what_each_draws():
    seeds = [0, 5, 2**63 - 1]
    together, alone = _Generators(seeds), [seeding.np_random(seed)[0] for seed in seeds]
    order = np.random.default_rng(0)
    for _ in range(3000):
        dtype = order.choice([np.float32, np.float64])
        expected = [generator.random(1, dtype)[0] for generator in alone]
        found = together.random(3, dtype)
        assert found.dtype == dtype
        assert found.tolist() == expected


def test_a_learner_does_not_depend_on_the_others():
    config = TrainConfig(num_updates=40)
    many = train_together(config, range(30))
    for seeds in ([7], [29, 7]):
        few = train_together(config, seeds)
        for tag, column in few.columns.items():
            assert column[:, -1].tobytes() == many.columns[tag][:, 7].tobytes(), tag


def test_gradients_that_differ_are_a_failure(monkeypatch):
    monkeypatch.setattr(
        "pgtorch.lesson.learners.bias_policy_gradient", lambda *_: {"bias": torch.tensor([0.0, 1e-9, 0.0])}
    )
    assert train_together(TrainConfig(num_updates=1, start_bias=90.0), range(3)).failed == [
        False,
        True,
        False,
    ]
