"""Restaurant-v0 against the closed form. Wrong environments are planted in test_planted_faults.py."""

from dataclasses import replace

import pytest
import torch

from pgtorch.lesson.model import RestaurantModel
from pgtorch.proof.restaurant_rows import restaurant_rows

RESTAURANT = "restaurant_env:Restaurant-v0"
GRADED = {"reward_scheme": "graded", "hungry_above": 0.3, "large_portion_probability": (0.3, 0.6)}


@pytest.mark.parametrize(("weight", "settings"), [(20.0, {}), (7.0, GRADED)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_environment_agrees_with_its_model(weight, settings, seed):
    rows = list(restaurant_rows("", RestaurantModel(weight, **settings), RESTAURANT, env_kwargs=settings, seed=seed))
    assert [row.check for row in rows] == ["expectation against exact"] * 3 + ["sampled mean against exact"]
    assert {row.status for row in rows} == {"PASS"}


def test_any_weight_will_do():
    """Kills a weight rounded to float32."""
    rows = list(restaurant_rows("", RestaurantModel(7.01, **GRADED), RESTAURANT, env_kwargs=GRADED, seed=0))
    assert {row.status for row in rows} == {"PASS"}


@pytest.mark.parametrize("wrong", [{"reward_scale": 1.01}, {"hungry_above": 0.31}, {"reward_scheme": "binary"}])
def test_a_wrong_model_fails(wrong):
    model = replace(RestaurantModel(7.0, **GRADED), **wrong)
    rows = list(restaurant_rows("", model, RESTAURANT, env_kwargs=GRADED, seed=0))
    assert [row.status for row in rows[:3]] == ["FAIL"] * 3


def test_rows_repeat_with_the_seed_and_leave_the_global_stream():
    before = torch.get_rng_state()
    one, same, other = (list(restaurant_rows("", RestaurantModel(), RESTAURANT, seed=seed)) for seed in (0, 0, 1))
    assert one == same
    assert one[:3] == other[:3]  # nothing is drawn for these
    assert one[3] != other[3]
    assert torch.equal(torch.get_rng_state(), before)
