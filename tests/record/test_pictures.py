import math

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes

from pgtorch import BiasPolicy, Policy, TrainConfig, train
from pgtorch.lesson.model import SETTINGS, RestaurantModel
from pgtorch.record import pictures, plot
from pgtorch.record.metrics import History

LESSON = {"bias.png", "p_norm.png", "expected_reward.png", "gradient.png"}
CART = TrainConfig("CartPole-v1")


def straight(end, updates=100, start=0.0, **more):
    """The history of a run whose bias went in a straight line."""
    history = History({"policy/bias": start})
    for i in range(1, updates + 1):
        gradient = math.sin(i)
        figures = {"policy/bias": start + (end - start) * i / updates, "gradient/autograd": gradient}
        history.add(i, i, {**figures, "gradient/manual": gradient, "gradient/absolute_difference": 0.0, **more})
    return history


def returns(values):
    history = History()
    for i, value in enumerate(values, 1):
        history.add(i, 10 * i, {} if value is None else {"rollout/episode_return": value})
    return history


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn, by file: the axes as matplotlib has them."""
    axes, save = {}, plot.save

    def keep(made, path, *rest):
        axes[path.stem] = made
        return save(made, path, *rest)

    monkeypatch.setattr(plot, "save", keep)
    return axes


def title(axes: Axes):
    return axes.get_title()


def labels(axes: Axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def pixels(path):
    return matplotlib.image.imread(path)


# Which pictures there are.


def test_the_lesson_has_four(tmp_path, drawn):
    found = pictures.draw(tmp_path, straight(-10.0), TrainConfig(), BiasPolicy())
    assert {path.name for path in found.values()} == LESSON
    assert found == {f"pictures/{name}": tmp_path / f"{name}.png" for name in drawn}
    for path in found.values():
        assert pixels(path).shape == (450, 800, 4)
        assert len(np.unique(pixels(path).reshape(-1, 4), axis=0)) > 10  # there is something on it


def test_another_environment_has_no_exact_answer(tmp_path, drawn):
    found = pictures.draw(tmp_path, straight(-10.0), TrainConfig("Other-v0", policy="bias"), BiasPolicy())
    assert {path.name for path in found.values()} == LESSON - {"expected_reward.png"}
    assert not any("optimum" in label for label in labels(drawn["bias"]))


def test_without_a_check_there_is_no_gradient(tmp_path):
    history = History()
    history.add(1, 1, {"policy/bias": -1.0})
    found = pictures.draw(tmp_path, history, TrainConfig(check_gradient=0), BiasPolicy())
    assert {path.name for path in found.values()} == LESSON - {"gradient.png"}


def test_another_policy_shows_its_returns(tmp_path):
    assert pictures.draw(tmp_path, returns([None, None]), CART, Policy()) == {}
    assert pictures.draw(tmp_path, History(), CART, Policy()) == {}
    assert not list(tmp_path.iterdir())
    found = pictures.draw(tmp_path, returns([None, 1.0]), CART, Policy())
    assert found == {"pictures/episode_return": tmp_path / "episode_return.png"}


def test_a_bias_of_another_policy_is_not_the_lessons(tmp_path):
    """Without a weight there is no P(Norm) to draw."""
    history = History()
    history.add(1, 1, {"policy/bias": 1.0, "rollout/episode_return": 1.0})
    assert pictures.draw(tmp_path, history, CART, Policy()).keys() == {"pictures/episode_return"}


def test_a_run_draws_what_it_has(tmp_path):
    run = train(TrainConfig(num_updates=3, run_dir=tmp_path / "run")).run_dir
    assert {path.name for path in run.glob("*.png")} == LESSON


@pytest.mark.parametrize("updates", [1, 2, 3, 9000])
def test_short_and_long_runs(tmp_path, updates):
    assert len(pictures.draw(tmp_path, straight(-1.0, updates), TrainConfig(), BiasPolicy())) == 4


def test_a_picture_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match=r"bias\.png"):
        pictures.draw(tmp_path / "missing", straight(-1.0), TrainConfig(), BiasPolicy())


# What they say.


def test_titles_tell_what_happened(tmp_path, drawn):
    pictures.draw(tmp_path, straight(-10.0, start=3.0), TrainConfig(), BiasPolicy(bias=3.0))
    first, second = title(drawn["bias"]).splitlines()
    assert first == "The bias: 3.00 at the start, -10.00 after 100 updates"
    assert second == "by update 93 it came within 1 of the optimum, -10.00"  # 3 - 13 * 0.93 = -9.09
    assert title(drawn["p_norm"]) == "P(Norm) by hunger: bias 3.00 at the start, -10.00 after 100 updates"
    start, end = (RestaurantModel().expected_reward(bias) for bias in (3.0, -10.0))
    ends = f": {start:.2f} at the start, {end:.2f} at the end, {end:.2f} at the optimum"
    assert title(drawn["expected_reward"]).endswith(ends)
    assert title(drawn["gradient"]) == "Autograd and the chain rule by hand agree to the last bit"


@pytest.mark.parametrize(("start", "end"), [(4.0, -8.9), (-30.0, -20.0), (0.0, 0.5)])
def test_a_run_that_did_not_arrive_says_so(tmp_path, drawn, start, end):
    """And its hill reaches from where it was to the optimum, wherever that is."""
    pictures.draw(tmp_path, straight(end, start=start), TrainConfig(), BiasPolicy(bias=start))
    assert title(drawn["bias"]).splitlines()[1] == "it never came within 1 of the optimum, -10.00"
    hill = drawn["expected_reward"].lines[0].get_xdata()
    assert (hill[0], hill[-1]) == pytest.approx((min(start, end, -10) - 2, max(start, end, -10) + 2))
    assert "exact optimum, -10.00" in labels(drawn["expected_reward"])


def test_it_arrives_at_the_optimum_of_its_own_environment(tmp_path, drawn):
    config = TrainConfig(env_kwargs={"hungry_above": 0.3})
    pictures.draw(tmp_path, straight(-6.0), config, BiasPolicy())
    best = RestaurantModel(hungry_above=0.3).optimal_bias()
    arrival = next(i for i in range(101) if abs(-0.06 * i - best) < 1)
    assert title(drawn["bias"]).endswith(f"by update {arrival} it came within 1 of the optimum, {best:.2f}")


@pytest.mark.parametrize(("start", "weight"), [(0.0, 20.0), (3.0, 20.0), (-4.0, 5.0)])
def test_p_norm_is_that_of_the_runs_own_policy(tmp_path, drawn, start, weight):
    """The first curve is that of the policy before the first update, the last one that of the last."""
    pictures.draw(tmp_path, straight(-10.0, start=start), TrainConfig(), BiasPolicy(weight, start))
    first, *between, last = drawn["p_norm"].lines
    assert labels(drawn["p_norm"])[0] == f"after 0 updates, bias {start:.1f}"
    assert labels(drawn["p_norm"])[-1] == "after 100 updates, bias -10.0"
    for line, bias in ((first, start), (last, -10.0)):
        hunger = np.array(line.get_xdata())
        np.testing.assert_allclose(line.get_ydata(), 1 / (1 + np.exp(-(weight * hunger + bias))), rtol=1e-6)
    middles = [float(label.rpartition(" ")[2]) for label in labels(drawn["p_norm"])[1:-1]]
    assert len(middles) == len(between) == 3
    assert middles == sorted(middles, reverse=True)
    assert -10 < middles[-1] < middles[0] < start


def test_a_bias_that_stays_has_one_curve(tmp_path, drawn):
    pictures.draw(tmp_path, straight(2.0, start=2.0), TrainConfig(), BiasPolicy(bias=2.0))
    assert labels(drawn["p_norm"]) == ["after 0 updates, bias 2.0", "after 100 updates, bias 2.0"]


def test_a_huge_bias_can_be_drawn(tmp_path):
    assert len(pictures.draw(tmp_path, straight(-1e30), TrainConfig(), BiasPolicy())) == 4


def test_the_curve_is_the_runs_own(tmp_path, drawn):
    pictures.draw(tmp_path, straight(-10.0), TrainConfig(), BiasPolicy())
    (line, mean, best) = drawn["bias"].lines
    np.testing.assert_array_equal(line.get_xdata(), np.arange(101))
    np.testing.assert_allclose(line.get_ydata(), -0.1 * np.arange(101))
    assert mean.get_ydata()[0] == pytest.approx(np.mean(-0.1 * np.arange(51, 101)))
    assert best.get_ydata()[0] == pytest.approx(-10)
    dots = drawn["expected_reward"].collections[0].get_offsets()
    np.testing.assert_allclose(dots[:, 0], -0.1 * np.arange(101))
    np.testing.assert_allclose(dots[:, 1], [RestaurantModel().expected_reward(bias) for bias in dots[:, 0]])


def test_the_optimum_is_that_of_the_runs_own_environment(tmp_path, drawn):
    for threshold in (0.5, 0.4):
        config = TrainConfig(env_kwargs={"hungry_above": threshold, "autoreset_mode": "NextStep"})
        pictures.draw(tmp_path, straight(-10.0), config, BiasPolicy())
        best = RestaurantModel(hungry_above=threshold).optimal_bias()
        assert drawn["bias"].lines[-1].get_ydata()[0] == pytest.approx(best)
        assert f"exact optimum, {best:.2f}" in labels(drawn["expected_reward"])


def test_a_gradient_that_is_off_leaves_the_diagonal(tmp_path, drawn):
    history = straight(-10.0)
    figures = {"gradient/autograd": 0.5, "gradient/manual": 0.25, "gradient/absolute_difference": 0.25}
    history.add(101, 101, {"policy/bias": -10.0, **figures})
    pictures.draw(tmp_path, history, TrainConfig(), BiasPolicy())
    assert title(drawn["gradient"]) == "Autograd and the chain rule by hand differ by at most 0.25"
    dots = drawn["gradient"].lines[1]
    assert (dots.get_xdata()[-1], dots.get_ydata()[-1]) == (0.25, 0.5)
    assert labels(drawn["gradient"])[1] == "101 updates"


def test_a_difference_between_two_points_of_a_long_run_is_reported(tmp_path, drawn):
    """Of 9,001 gradients only each fourth is shown; the largest difference is that of all."""
    history = straight(-10.0, 7001)
    figures = {"gradient/autograd": 0.5, "gradient/manual": 0.25, "gradient/absolute_difference": 0.25}
    history.add(7002, 7002, {"policy/bias": -10.0, **figures})
    for i in range(7003, 9002):
        same = {"gradient/autograd": 0.5, "gradient/manual": 0.5, "gradient/absolute_difference": 0.0}
        history.add(i, i, {"policy/bias": -10.0, **same})
    pictures.draw(tmp_path, history, TrainConfig(), BiasPolicy())
    assert title(drawn["gradient"]).endswith("differ by at most 0.25")


def test_the_return_and_its_running_mean(tmp_path, drawn):
    values = [None if i % 3 else float(i) for i in range(1, 200)]
    pictures.draw(tmp_path, returns(values), CART, Policy())
    dots, line = drawn["episode_return"].lines
    ended = [(10 * i, value) for i, value in enumerate(values, 1) if value is not None]
    assert list(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == ended
    whole = [value for _, value in ended]
    expected = [np.mean(whole[max(0, i - 19) : i + 1]) for i in range(len(whole))]
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert labels(drawn["episode_return"]) == ["mean of an update", "running mean of 20"]
    assert title(drawn["episode_return"]) == f"Return of an episode: 3.00 at the start, {expected[-1]:.2f} at the end"


def test_settings_of_the_model_are_those_of_the_environment():
    assert set(RestaurantModel.__dataclass_fields__) - {"weight"} == SETTINGS
