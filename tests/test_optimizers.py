import math
import sys

import pytest
import torch
from support import leaves, seeded
from torch import nn

from pgtorch.distributions import as_global_stream
from pgtorch.optimizers import SGD, Adam, Optimizer, make_optimizer, make_schedule

OWN = ["sgd", "adam"]
OTHERS = [
    "SGD",
    "Adam",
    "AdamW",
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "Adamax",
    "NAdam",
    "RAdam",
    "ASGD",
    "Rprop",
    "Adafactor",
]
NAMES = [*OWN, *(f"torch.optim.{name}" for name in OTHERS)]
THEIRS = {"sgd": torch.optim.SGD, "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr, fused=True)}
THEIRS |= {f"torch.optim.{name}": getattr(torch.optim, name) for name in OTHERS}


def model():
    with as_global_stream(seeded()):
        return nn.Linear(5, 3)


def learn(learner, step, batch):
    """One step along the gradient of something."""
    learner.zero_grad()
    learner(batch).square().mean().backward()
    step()


def equal(one, other):
    return all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_steps_like_torch_optim_to_the_last_bit(name):
    ours_model, their_model = model(), model()
    ours = make_optimizer(name, ours_model.parameters(), 0.05)
    reference = THEIRS[name](their_model.parameters(), lr=0.05)
    start, generator = model(), seeded(1)
    for _ in range(20):
        batch = torch.randn(7, 5, generator=generator)
        learn(ours_model, ours.step, batch)
        learn(their_model, reference.step, batch)
        assert equal(ours_model, their_model)
    assert not equal(ours_model, start)


@pytest.mark.parametrize("name", NAMES)
def test_a_factor_scales_the_learning_rate_of_one_step(name):
    ours_model, their_model, generator = model(), model(), seeded(1)
    ours = make_optimizer(name, ours_model.parameters(), 0.5)
    reference = THEIRS[name](their_model.parameters(), lr=0.5)
    for factor in (1.0, 0.25, 0.5, 1.0):
        batch = torch.randn(7, 5, generator=generator)
        reference.param_groups[0]["lr"] = 0.5 * factor
        learn(ours_model, lambda factor=factor: ours.step(factor), batch)
        learn(their_model, reference.step, batch)
        assert equal(ours_model, their_model), factor


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_continues_from_its_state_as_if_it_had_never_stopped(name, steps):
    straight, generator = model(), seeded(1)
    optimizer = make_optimizer(name, straight.parameters(), 0.05)
    for _ in range(steps):
        learn(straight, optimizer.step, torch.randn(7, 5, generator=generator))
    resumed = model()
    resumed.load_state_dict(straight.state_dict())
    fresh = make_optimizer(name, resumed.parameters(), 0.05)
    state = {key: tensor.clone() for key, tensor in optimizer.state_dict().items()}
    saved = leaves(state)
    fresh.load_state_dict(state)
    assert leaves(fresh.state_dict()) == saved
    if steps:
        expected = {key: (tensor.shape, tensor.dtype) for key, tensor in fresh.expected_state(state).items()}
        assert {key: (tensor.shape, tensor.dtype) for key, tensor in state.items()} == expected
    for _ in range(5):
        batch = torch.randn(7, 5, generator=generator)
        learn(straight, optimizer.step, batch)
        learn(resumed, fresh.step, batch)
        assert equal(straight, resumed)
    assert leaves(state) == saved  # what was handed in is not shared


@pytest.mark.parametrize("name", NAMES)
def test_making_one_moves_nothing(name):
    learner, start = model(), model()
    learner.weight.grad = torch.ones(3, 5)
    make_optimizer(name, learner.parameters(), 0.05)
    assert equal(learner, start)
    assert torch.equal(learner.weight.grad, torch.ones(3, 5))
    assert learner.bias.grad is None


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_without_gradient_stays(name):
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = make_optimizer(name, [used, unused], 0.1)
    used.sum().backward()
    optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    assert (used < 1).all()
    optimizer.zero_grad()
    optimizer.step()  # none has one
    assert torch.equal(unused, torch.ones(2))


@pytest.mark.parametrize("name", ["sgd", "adam", "torch.optim.RMSprop"])
def test_zero_grad_forgets_and_gradients_add_up_without_it(name):
    parameter = nn.Parameter(torch.ones(2))
    optimizer = make_optimizer(name, [parameter], 0.1)
    parameter.sum().backward()
    parameter.sum().backward()
    assert parameter.grad.tolist() == [2.0, 2.0]
    optimizer.zero_grad()
    assert parameter.grad is None
    parameter.sum().backward()
    assert parameter.grad.tolist() == [1.0, 1.0]


def with_gradients(*gradients):
    """An optimizer of parameters with these gradients; None is none."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else torch.tensor(gradient)
    return SGD(parameters, 1.0)


def test_gradient_norm_is_that_of_all_gradients_together():
    assert with_gradients([3.0, 0.0], None, [0.0, 4.0]).gradient_norm() == 5.0
    assert with_gradients(None, None).gradient_norm() == 0.0
    optimizer = with_gradients([1.0, -2.0], [3.0, -4.0])
    theirs = torch.nn.utils.clip_grad_norm_(optimizer.parameters, 1e9).item()
    assert optimizer.gradient_norm() == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gradient_norm_is_not_finite_if_one_number_is_not(bad):
    assert not math.isfinite(with_gradients([1.0, 2.0], [bad, 0.0]).gradient_norm())


def test_clip_shortens_long_gradients_and_keeps_their_direction():
    optimizer = with_gradients([3.0, 0.0], None, [0.0, 4.0])
    optimizer.clip(5.0, max_norm=1.0)
    assert [None if p.grad is None else p.grad.tolist() for p in optimizer.parameters] == [
        pytest.approx([0.6, 0.0]),
        None,
        pytest.approx([0.0, 0.8]),
    ]
    assert optimizer.gradient_norm() == pytest.approx(1.0)


@pytest.mark.parametrize("max_norm", [5.0, 6.0])
def test_clip_leaves_short_gradients(max_norm):
    optimizer = with_gradients([3.0, 0.0], [0.0, 4.0])
    optimizer.clip(5.0, max_norm=max_norm)
    assert [p.grad.tolist() for p in optimizer.parameters] == [[3.0, 0.0], [0.0, 4.0]]


def test_an_infinite_limit_clips_nothing():
    optimizer = with_gradients([3.0, 0.0])
    optimizer.clip(math.inf, max_norm=math.inf)
    assert optimizer.parameters[0].grad.tolist() == [3.0, 0.0]


def test_names_stand_for_their_classes():
    parameters = [nn.Parameter(torch.zeros(1))]
    assert type(make_optimizer("sgd", parameters, 0.1)) is SGD
    assert type(make_optimizer("adam", parameters, 0.1)) is Adam
    assert issubclass(SGD, Optimizer)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch.optim.LBFGS", r"optimizer torch\.optim\.LBFGS cannot be used: .*closure"),
        ("torch.optim.SparseAdam", r"optimizer torch\.optim\.SparseAdam cannot be used: .*dense gradients"),
        ("torch.optim.Newton", r"optimizer must be sgd, adam or a class of torch\.optim, got 'torch\.optim\.Newton'"),
        ("torch.optim.Optimizer", "optimizer"),
        ("torch.optim.lr_scheduler", "optimizer must be"),
        ("newton", "optimizer must be .*newton'"),
        ("", "optimizer must be"),
    ],
)
def test_what_is_no_optimizer_is_refused(name, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make_optimizer(name, [nn.Parameter(torch.zeros(2))], 0.1)


def test_an_empty_state_is_taken_over_too():
    """That of an optimizer that has not stepped yet."""
    (parameter,) = parameters = [nn.Parameter(torch.zeros(2))]
    optimizer = make_optimizer("torch.optim.RMSprop", parameters, 0.1)
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.state_dict()
    optimizer.load_state_dict({})
    assert optimizer.state_dict() == {}


@pytest.mark.parametrize("name", ["RMSprop", "newton", "optim.RMSprop"])
def test_a_class_of_torch_has_its_whole_name(name):
    with pytest.raises(ValueError, match=f"torch.optim, got '{name}'"):
        make_optimizer(name, [nn.Parameter(torch.zeros(2))], 0.1)


@pytest.mark.parametrize(
    ("name", "factors"),
    [("constant", [1.0, 1.0, 1.0]), ("linear", [1.0, 0.75, 0.5]), ("cosine", [1.0, math.cos(math.pi / 8) ** 2, 0.5])],
)
def test_a_schedule_goes_from_the_whole_rate_to_none(name, factors):
    schedule = make_schedule(name)
    assert [schedule(done) for done in (0.0, 0.25, 0.5)] == pytest.approx(factors, rel=1e-15)
    assert schedule(1.0) == (1.0 if name == "constant" else pytest.approx(0.0, abs=1e-16))


@pytest.fixture
def own_schedules(tmp_path, monkeypatch):
    (tmp_path / "own_schedules.py").write_text(
        "def steps(done):\n    return 1.0 if done < 0.5 else 0.1\n\n"
        "def wrong(done):\n    return 'much'\n\ndef negative(done):\n    return -1.0\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own_schedules", None)


@pytest.mark.usefixtures("own_schedules")
def test_a_schedule_may_be_your_own_function():
    schedule = make_schedule("own_schedules:steps")
    assert [schedule(done) for done in (0.0, 0.49, 0.5)] == [1.0, 1.0, 0.1]


@pytest.mark.usefixtures("own_schedules")
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("own_schedules:wrong", TypeError, "own_schedules:wrong must return a number of at least 0, got 'much' at 0.0"),
        ("own_schedules:negative", TypeError, "got -1.0 at 0.0"),
        ("own_schedules:none", AttributeError, "none"),
        ("no_such_module:steps", ImportError, "no_such_module"),
        ("square", ValueError, "must be constant, linear, cosine or module:function, got 'square'"),
    ],
)
def test_what_is_no_schedule_is_refused(name, error, message):
    with pytest.raises(error, match=message):
        make_schedule(name)
