import pytest
import torch
from gymnasium import spaces

from pgtorch import MLPPolicy
from pgtorch.proof.measures import autograd_gradient, directions_along, flat, moved, relative_error, slopes, z_score

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

    found, smooth = slopes(policy, function, direction.unsqueeze(0), scale=1.0)
    assert found.item() == pytest.approx(torch.dot(before.cos(), direction).item(), abs=1e-9)
    assert smooth.tolist() == [True]
    assert torch.equal(flat(dict(policy.named_parameters())), before)


@pytest.mark.parametrize("at", [2.9e-3, 1e-3, 4e-4, 3.1e-5, -2e-3, -7e-5])
def test_a_slope_near_a_kink_is_taken_with_shorter_steps(policy, at):
    """Kills a single step size, and one-sided views on one side only."""
    start = policy.layers[0].bias[0].item()

    def function():  # numbers with and without a kink: slopes 3 before and 5 after it; 1
        moved_by = policy.layers[0].bias[0] - start
        return torch.stack([4 * moved_by + (moved_by - at).abs(), policy.layers[0].bias[0]])

    unit = torch.cat([(p == policy.layers[0].bias[0]).double().flatten() for p in policy.parameters()])
    found, smooth = slopes(policy, function, unit.unsqueeze(0), scale=1.0)
    assert smooth.tolist() == [[True, True]]
    assert found[0].tolist() == pytest.approx([3.0 if at > 0 else 5.0, 1.0], abs=1e-8)


@pytest.mark.parametrize("at", [0.0, 1e-6, -2e-5])
def test_a_slope_at_a_kink_is_marked_and_one_that_is_not_finite_is_not(policy, at):
    start = policy.layers[0].bias[0].item()

    def function():
        return torch.stack([(policy.layers[0].bias[0] - start - at).relu(), policy.layers[0].bias[0] * torch.nan])

    unit = torch.cat([(p == policy.layers[0].bias[0]).double().flatten() for p in policy.parameters()])
    found, smooth = slopes(policy, function, unit.unsqueeze(0), scale=1.0)
    assert smooth.tolist() == [[False, True]]
    assert found[0, 1].isnan()


def test_directions_are_the_gradient_its_parts_and_random_ones():
    gradient = {"a": torch.tensor([3.0]), "b": torch.zeros(2), "c": torch.tensor([0.0, 4.0])}
    found = directions_along(gradient, torch.Generator().manual_seed(0))
    assert found.shape == (3 + 8, 5)  # nothing along b
    expected = torch.tensor([[0.6, 0.0, 0.0, 0.0, 0.8], [1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    torch.testing.assert_close(found[:3], expected)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(11))


def test_noise_does_not_swamp_wide_layers():
    """Of 1,600 inputs a tenth of the deviation that 16 have; a bias keeps 0.3."""
    layer = torch.nn.Linear(1600, 200)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    noisy = moved(layer, torch.Generator().manual_seed(0))
    assert noisy.weight.std().item() == pytest.approx(0.03, rel=0.02)
    assert noisy.bias.std().item() == pytest.approx(0.3, rel=0.2)


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


def test_z_score_takes_rounding_for_what_it_is():
    """A number that is 0 on paper, such as the gradient of the bias of an attention's keys, is never exactly 0."""
    found = batches(torch.zeros(3)) * torch.tensor([1.0, 1.0, 1e-17]) + torch.tensor([0.0, 0.0, 1e-17]).double()
    assert z_score(found, exact=torch.zeros(3).double()) < 1e-3
    found = batches(torch.zeros(3)) * torch.tensor([1.0, 1.0, 1e-9]) + torch.tensor([0.0, 0.0, 1e-9]).double()
    assert z_score(found, exact=torch.zeros(3).double()) > 10.0


def test_z_score_leaves_out_what_hardly_ever_changes():
    """One of 100 batches saw it: its standard error is not known. The others still count."""
    found = torch.cat([1 + batches(torch.zeros(2), 100, 2), torch.zeros(100, 1).double()], dim=1)
    found[50, 2] = 1e-3
    assert z_score(found, exact=torch.tensor([1.0, 1.0, 1e-4]).double()) < 1.0
    assert z_score(found, exact=torch.tensor([1.0, 1.5, 1e-4]).double()) > 4.0
