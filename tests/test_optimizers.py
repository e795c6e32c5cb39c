import pytest
import torch
from torch import nn

from pgtorch.optimizers import OPTIMIZERS


@pytest.mark.parametrize(("name", "theirs"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_steps_like_torch_optim_to_the_last_bit(name, theirs):
    torch.manual_seed(0)
    ours_model, their_model = nn.Linear(5, 3), nn.Linear(5, 3)
    their_model.load_state_dict(ours_model.state_dict())
    options = {"fused": True} if name == "adam" else {}
    ours = OPTIMIZERS[name](ours_model.parameters(), 0.05)
    reference = theirs(their_model.parameters(), lr=0.05, **options)
    for _ in range(20):
        batch = torch.randn(7, 5)
        for model in (ours_model, their_model):
            model.zero_grad()
            model(batch).square().mean().backward()
        ours.step()
        reference.step()
        for mine, other in zip(ours_model.parameters(), their_model.parameters(), strict=True):
            assert torch.equal(mine, other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_without_gradient_stays(name):
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = OPTIMIZERS[name]([used, unused], 0.1)
    used.sum().backward()
    optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    assert (used < 1).all()
