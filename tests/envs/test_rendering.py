"""What `render` shows. A picture is looked at by its difference from the picture of another visit."""

import os
import subprocess
import sys
from itertools import pairwise
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import RecordVideo

from restaurant_env import RestaurantEnv, RestaurantVectorEnv

CERTAIN = {"large_portion_probability": (0.0, 1.0)}  # Squatch always serves a small order, Norm always a large one
HUNGER_RIGHT, REWARD_LEFT = 115, 294  # columns: the bar stays left of the first, the reward right of the second


def render(mode, hunger, action=None, **settings):
    env = gym.make("Restaurant-v0", render_mode=mode, **{**CERTAIN, **settings})
    env.reset(seed=0, options={"hunger": hunger})
    if action is not None:
        env.step(action)
    return env.render()


def picture(hunger, action=None, **settings):
    return render("rgb_array", hunger, action, **settings)


class Box(NamedTuple):
    top: int
    bottom: int
    left: int
    right: int


def changed(one, other):
    """The box around the pixels that differ."""
    rows, columns = np.nonzero((one != other).any(axis=2))
    return Box(rows.min(), rows.max(), columns.min(), columns.max())


@pytest.mark.parametrize(
    ("hunger", "action", "settings", "line"),
    [
        (0.25, None, {}, "hunger 0.25 (not hungry): where to?"),
        (0.75, None, {}, "hunger 0.75 (hungry): where to?"),
        (0.75, None, {"hungry_above": 0.75}, "hunger 0.75 (not hungry): where to?"),
        (0.0, 0, {}, "hunger 0.00 (not hungry): Squatch's Fry Shack serves a small order, reward +1"),
        (0.0, 1, {}, "hunger 0.00 (not hungry): Norm's Fry Hut serves a large order, reward -1"),
        (1.0, 0, {}, "hunger 1.00 (hungry): Squatch's Fry Shack serves a small order, reward -1"),
        (1.0, 1, {}, "hunger 1.00 (hungry): Norm's Fry Hut serves a large order, reward +1"),
        (1.0, 1, {"reward_scheme": "graded"}, "hunger 1.00 (hungry): Norm's Fry Hut serves a large order, reward +2"),
        (
            1.0,
            0,
            {"large_portion_probability": (1.0, 0.0), "reward_scale": 0.5},
            "hunger 1.00 (hungry): Squatch's Fry Shack serves a large order, reward +0.5",
        ),
    ],
)
def test_ansi_is_one_line(hunger, action, settings, line):
    assert render("ansi", hunger, action, **settings) == line


@pytest.mark.parametrize("action", [None, 0, 1])
def test_picture_is_of_one_size_and_the_same_for_the_same_visit(action):
    one = picture(0.375, action)
    assert (one.dtype, one.shape) == (np.uint8, (320, 480, 3))
    assert np.array_equal(one, picture(0.375, action))
    assert len(np.unique(one.reshape(-1, 3), axis=0)) > 5


def test_picture_is_the_callers_own():
    env = RestaurantEnv(render_mode="rgb_array")
    env.reset(seed=0)
    env.render()[:] = 0
    assert env.render().any()


def test_bar_rises_with_hunger():
    """The bar is 210 pixels high: another 0.25 of hunger paints 52 or 53 rows more, each higher than the last."""
    pictures = [picture(hunger) for hunger in (0.0, 0.25, 0.5)]
    empty = pictures[0][50, 50]  # near the top of the bar
    bar = [np.flatnonzero((each[:, 50] == empty).all(axis=1)) for each in pictures]
    heights = [len(rows) for rows in bar]
    assert all(50 <= low - high <= 55 for low, high in pairwise(heights))
    assert bar[0][0] == bar[1][0] == bar[2][0]  # the top stays where it is: the bar fills from below
    assert changed(pictures[0], pictures[1]).right < HUNGER_RIGHT  # nothing else moves


def test_threshold_line_rises():
    """From 1/4 to 3/4 of a bar that is 210 pixels high and ends at row 254; the line is 3 pixels thick."""
    box = changed(picture(0.1, hungry_above=0.25), picture(0.1, hungry_above=0.75))
    assert box.top == pytest.approx(254 - 0.75 * 210, abs=3)
    assert box.bottom == pytest.approx(254 - 0.25 * 210, abs=3)
    assert box.right < HUNGER_RIGHT


def test_hungry_or_not_is_written_out():
    box = changed(picture(0.5), picture(0.5 + 2**-20))  # the same bar and number
    assert box.top > 264
    assert box.right < HUNGER_RIGHT


def test_odds_are_shown():
    box = changed(picture(0.5), picture(0.5, large_portion_probability=(0.5, 1.0)))
    assert 214 < box.top < box.bottom < 264
    assert HUNGER_RIGHT < box.left < box.right < 300


@pytest.mark.parametrize("hunger", [0.0, 1.0])
def test_the_chosen_place_stands_out_and_the_other_fades(hunger):
    before, squatch, norm = (picture(hunger, action) for action in (None, 0, 1))
    places = {"squatch": np.s_[90:200, 125:265], "norm": np.s_[90:200, 305:445]}
    assert np.array_equal(squatch[places["squatch"]], before[places["squatch"]])
    assert np.array_equal(norm[places["norm"]], before[places["norm"]])
    assert squatch[places["norm"]].mean() > before[places["norm"]].mean() + 10
    assert norm[places["squatch"]].mean() > before[places["squatch"]].mean() + 10


@pytest.mark.parametrize("action", [0, 1])
def test_order_and_reward_are_shown(action):
    small, large = (picture(1.0, action, large_portion_probability=(size, size)) for size in (0.0, 1.0))
    for part in (np.s_[255:, HUNGER_RIGHT:200], np.s_[265:, 200:REWARD_LEFT]):  # the box of fries, and the word
        assert not np.array_equal(small[part], large[part])
    better = changed(large, picture(1.0, action, large_portion_probability=(1.0, 1.0), reward_scale=2.0))
    assert better.top > 250
    assert better.left > REWARD_LEFT
    colors = [{tuple(pixel) for pixel in each[265:, 300:].reshape(-1, 3)} for each in (small, large)]
    assert colors[0] != colors[1]  # a good reward and a bad one


@pytest.mark.parametrize("scale", [0.5, 0.25, 1234.5, 1e-5, 1.23456e10])
def test_a_long_reward_is_written_whole_and_beside_the_order(scale):
    usual, long = picture(1.0, 1), picture(1.0, 1, reward_scale=scale)
    assert changed(usual, long).left > REWARD_LEFT
    assert (long[:, -1] == long[0, 0]).all()  # nothing is cut off at the edge


def test_pictures_need_no_display():
    code = """
import sys
import gymnasium as gym
env = gym.make("restaurant_env:Restaurant-v0", render_mode="rgb_array")
env.reset(seed=0)
env.step(1)
print(env.render().shape, "pygame" in sys.modules)
"""
    displays = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    environment = {name: value for name, value in os.environ.items() if name not in displays}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment, timeout=60
    )
    assert (done.stdout, done.stderr) == ("(320, 480, 3) False\n", "")


@pytest.mark.parametrize("maker", [RestaurantEnv, RestaurantVectorEnv])
def test_rendering_without_a_mode_warns(maker):
    env = maker()
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="has no render_mode"):
        assert env.render() is None


def test_human_rendering_shows_the_picture(monkeypatch):
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(RestaurantEnv.metadata, "render_fps", 1000)  # no waiting
    with pytest.warns(UserWarning, match="HumanRendering wrapper is being applied"):
        env = gym.make("Restaurant-v0", render_mode="human", **CERTAIN)
    try:
        env.reset(options={"hunger": 0.75})
        assert np.array_equal(pygame.surfarray.array3d(env.window).transpose(1, 0, 2), picture(0.75))
        env.step(1)
        assert np.array_equal(pygame.surfarray.array3d(env.window).transpose(1, 0, 2), picture(0.75, 1))
    finally:
        env.close()


def test_video_of_an_episode(tmp_path):
    pytest.importorskip("moviepy")
    env = gym.make("Restaurant-v0", render_mode="rgb_array")
    env = RecordVideo(env, str(tmp_path / "videos"), episode_trigger=lambda _: True, disable_logger=True)
    for _ in range(2):
        env.reset()
        env.step(1)
    env.close()
    videos = sorted((tmp_path / "videos").iterdir())
    assert [video.name for video in videos] == ["rl-video-episode-0.mp4", "rl-video-episode-1.mp4"]
    assert all(b"ftyp" in video.read_bytes()[:16] for video in videos)


# The vector environment

START = {"hunger": [0.25, 1.0]}
BEFORE = ("hunger 0.25 (not hungry): where to?", "hunger 1.00 (hungry): where to?")
AFTER = (
    "hunger 0.25 (not hungry): Norm's Fry Hut serves a large order, reward -1",
    "hunger 1.00 (hungry): Squatch's Fry Shack serves a small order, reward -1",
)


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_vector_rendering_shows_the_visit_just_ended_until_the_next_reset(mode):
    envs = gym.make_vec("Restaurant-v0", num_envs=2, render_mode="ansi", autoreset_mode=mode, **CERTAIN)
    envs.reset(options=START)
    assert envs.render() == BEFORE
    envs.step(np.array([1, 0]))
    assert envs.render() == AFTER
    envs.reset(options={"hunger": 0.25, "reset_mask": np.array([True, False])})
    assert envs.render() == (BEFORE[0], AFTER[1])
    envs.reset(options=START)
    assert envs.render() == BEFORE


def test_vector_rendering_of_a_filler_step_shows_the_new_hunger():
    envs = RestaurantVectorEnv(2, render_mode="ansi", autoreset_mode="NextStep")
    envs.reset(seed=0)
    envs.step([0, 1])
    observations, *_ = envs.step([0, 1])
    for line, hunger in zip(envs.render(), observations.ravel(), strict=True):
        assert line.startswith(f"hunger {hunger:.2f} (")
        assert line.endswith(": where to?")


def test_vector_pictures_are_those_of_the_scalar_environment():
    envs = RestaurantVectorEnv(2, render_mode="rgb_array", **CERTAIN)
    envs.reset(options=START)
    for actions in (None, [1, 0]):
        if actions:
            envs.step(actions)
        pictures = envs.render()
        assert isinstance(pictures, tuple)
        expected = [
            picture(hunger, action) for hunger, action in zip((0.25, 1.0), actions or (None, None), strict=True)
        ]
        assert np.array_equal(pictures, expected)
