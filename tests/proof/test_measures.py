import pytest
import torch
from gymnasium import spaces

from pgtorch import MLPPolicy
from pgtorch.proof.measures import autograd_gradient, flat, moved, relative_error, slope, z_score

BOX = spaces.Box(-1.0, 1.0, (2,))


@pytest.fixture
def policy():
    return moved(MLPPolicy(BOX, spaces.Discrete(3), (4,)), torch.Generator().manual_seed(0)).double()


def test_moved_is_a_copy_that_repeats_with_the_generator():
    policy = MLPPolicy(BOX, spaces.Box(-1.0, 1.0, (2,)), ())
    before = flat(dict(policy.named_parameters())).clone()
    one, same, other = (moved(policy, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(flat(dict(policy.named_parameters())), before)
    vectors = [flat(dict(each.named_parameters())) for each in (one, same, other)]
    assert torch.equal(vectors[0], vectors[1])
    assert (vectors[0] != before).all()
    assert (vectors[0] != vectors[2]).any()


def test_slope_is_the_derivative_and_leaves_the_policy(policy):
    before = flat(dict(policy.named_parameters())).clone()
    direction = torch.randn(len(before), generator=torch.Generator().manual_seed(0)).double()

    def function():
        return flat(dict(policy.named_parameters())).sin().sum()

    assert slope(policy, function, direction).item() == pytest.approx(
        torch.dot(before.cos(), direction).item(), abs=1e-9
    )
    assert torch.equal(flat(dict(policy.named_parameters())), before)


def test_autograd_gradient_has_zeros_for_what_is_not_used(policy):
    policy.unused = torch.nn.Parameter(torch.ones(2))
    gradient = autograd_gradient(policy, torch.ones(1, 2).double(), torch.tensor([1]), torch.ones(1).double())
    assert list(gradient) == [name for name, _ in policy.named_parameters()]
    assert gradient["unused"].tolist() == [0.0, 0.0]
    assert gradient["layers.1.bias"].sum().item() == pytest.approx(0.0, abs=1e-12)
    assert gradient["layers.1.bias"][1].item() < 0  # the chosen logit rises


def test_relative_error_is_in_lengths_of_the_exact_vector():
    assert relative_error(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.2)


def batches(offset, count=400, size=3):
    noise = torch.randn(count, size, generator=torch.Generator().manual_seed(0)).double()
    return noise - noise.mean(0) + offset * noise.std(0) / count**0.5


def test_z_score_counts_standard_errors():
    """Kills a missing square root of n, and a score along one direction only: one number is 7 standard errors off."""
    assert z_score(batches(torch.zeros(3)), exact=torch.zeros(3).double()) < 1e-9
    assert z_score(batches(torch.tensor([0.0, 0.0, 7.0])), exact=torch.zeros(3).double()) == pytest.approx(7.0)


def test_z_score_of_constants_is_0_or_infinite():
    constant = torch.full((10, 2), 0.3).double()
    assert z_score(constant, exact=torch.full((2,), 0.3).double()) == 0.0
    assert z_score(constant, exact=torch.full((2,), 0.3001).double()) == float("inf")


def test_z_score_leaves_out_what_hardly_ever_changes():
    """One of 100 batches saw it: its standard error is not known. The others still count."""
    found = torch.cat([1 + batches(torch.zeros(2), 100, 2), torch.zeros(100, 1).double()], dim=1)
    found[50, 2] = 1e-3
    assert z_score(found, exact=torch.tensor([1.0, 1.0, 1e-4]).double()) < 1.0
    assert z_score(found, exact=torch.tensor([1.0, 1.5, 1e-4]).double()) > 4.0
