import json
import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

from pgtorch import BiasPolicy, TrainConfig, train
from pgtorch.record.metrics import TAGS, MetricsWriter, policy_metrics, read_metrics, summarize

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's reader


def events(folder):
    return EventAccumulator(str(folder), size_guidance={SCALARS: 0, IMAGES: 0}).Reload()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(TrainConfig(num_updates=300, run_dir=tmp_path_factory.mktemp("run"))).run_dir


def test_tensorboard_and_jsonl_hold_the_same(run):
    lines, accumulated = read_metrics(run), events(run)
    assert [line["update"] for line in lines] == list(range(1, 301))
    for tag in set(TAGS) - {"loss/value", "time/env_steps_per_second"}:
        scalars = accumulated.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [line["env_steps"] for line in lines], tag
        assert [scalar.value for scalar in scalars] == [torch.tensor(line[tag]).item() for line in lines], tag


def test_every_tag_is_explained_and_moves(run):
    accumulated = events(run)
    tags = set(accumulated.Tags()["scalars"])
    assert tags == set(TAGS) - {"loss/value"}  # the lesson has no value function
    still = {
        "gradient/absolute_difference",
        "gradient/difference_in_units_of_u_c",
        "rollout/episode_length",
    }  # 0 and 1 in the lesson; see below
    for tag in tags - still:
        assert len({scalar.value for scalar in accumulated.Scalars(tag)}) > 1, tag


def test_jsonl_holds_no_wall_clock(run):
    assert not any(tag.startswith("time/") for line in read_metrics(run) for tag in line)


def test_values_are_what_they_say(run):
    for before, line in zip([{"policy/bias": 0.0}, *read_metrics(run)], read_metrics(run), strict=False):
        assert line["policy/bias"] == pytest.approx(before["policy/bias"] - line["gradient/autograd"], abs=1e-5)
        assert line["gradient/norm"] == abs(line["gradient/autograd"])
        assert line["rollout/episode_length"] == 1.0
        assert abs(line["rollout/episode_return"]) == 1.0
        for hunger in (0.0, 0.5, 1.0):
            expected = 1 / (1 + math.exp(-(20 * hunger + line["policy/bias"])))
            assert line[f"policy/p_norm/hunger_{hunger}"] == pytest.approx(expected, rel=1e-4)


def test_picture_is_shown(run):
    accumulated = events(run)
    assert "pictures/bias" in accumulated.Tags()["images"]
    assert accumulated.Images("pictures/bias")[0].encoded_image_string == (run / "bias.png").read_bytes()


def test_files_are_whole_after_an_error(tmp_path):
    def fail():
        with MetricsWriter(tmp_path) as writer:
            for update in range(1, 6):
                writer.write(update, update, {"policy/bias": -1.0 * update})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [line["policy/bias"] for line in read_metrics(tmp_path)] == [-1.0, -2.0, -3.0, -4.0, -5.0]
    assert [scalar.value for scalar in events(tmp_path).Scalars("policy/bias")] == [-1.0, -2.0, -3.0, -4.0, -5.0]


def test_tags_may_come_and_go(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, 1, {"policy/bias": 1.0})
        writer.write(2, 2, {"policy/bias": 2.0, "rollout/episode_return": 5.0})
        writer.write(3, 3, {"policy/bias": 3.0})
    assert [scalar.step for scalar in events(tmp_path).Scalars("rollout/episode_return")] == [2]
    assert [scalar.value for scalar in events(tmp_path).Scalars("policy/bias")] == [1.0, 2.0, 3.0]


def test_a_torn_last_line_is_left_out(tmp_path):
    whole = json.dumps({"update": 1, "policy/bias": 0.5})
    (tmp_path / "metrics.jsonl").write_text(whole + "\n" + whole[:-4])
    assert read_metrics(tmp_path) == [json.loads(whole)]


def test_summary_is_of_the_last_line_and_of_the_last_half():
    lines = [
        {"policy/bias": float(i), "policy/p_norm/hunger_0.0": 0.1, "policy/p_norm/hunger_1.0": 0.9} for i in range(5)
    ]
    lines[1]["gradient/absolute_difference"] = 0.25
    assert summarize(lines) == {
        "bias": 4.0,
        "late_bias": 3.0,
        "late_bias_deviation": pytest.approx((2 / 3) ** 0.5),
        "p_norm_hunger_0": 0.1,
        "p_norm_hunger_1": 0.9,
        "largest_gradient_difference": 0.25,
    }
    assert summarize([{"rollout/episode_return": 1.0}]) == {}


def test_another_policy_shows_no_bias():
    assert policy_metrics(torch.nn.Linear(1, 1)) == {}
    assert policy_metrics(BiasPolicy(bias=-3.0))["policy/bias"] == -3.0


def test_p_norm_is_the_policys_own():
    class Bolder(BiasPolicy):
        def forward(self, observation):
            return 2 * super().forward(observation)

    p_norm = policy_metrics(Bolder(bias=-9.0))["policy/p_norm/hunger_0.5"]
    assert p_norm == pytest.approx(1 / (1 + math.exp(-2)))
