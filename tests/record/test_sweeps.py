import json
import math

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pgtorch.record.metrics import History
from pgtorch.record.sweeps import bootstrap_interval, draw, interquartile_mean, matrix, summaries, summarize, write


@pytest.mark.parametrize("updates", [1, 2, 7, 4096, 4097, 9000])
def test_summaries_are_those_of_a_run(updates):
    generator = np.random.default_rng(updates)
    tags = ("policy/bias", "policy/p_norm/hunger_0.0", "policy/p_norm/hunger_1.0", "rollout/episode_return")
    columns = {tag: generator.normal(size=(updates, 3)).astype(np.float32) for tag in tags}
    columns["gradient/absolute_difference"] = np.zeros((updates, 3), np.float32)
    for i, summary in enumerate(summaries(columns)):
        history = History()
        for update in range(updates):
            history.add(update + 1, update + 1, {tag: float(column[update, i]) for tag, column in columns.items()})
        recent = columns["rollout/episode_return"][-100:, i].tolist()
        mean = {"recent_return": sum(recent) / len(recent), "recent_episodes": len(recent)}
        assert summary == history.summary() | mean


def test_the_interquartile_mean_is_of_the_middle_half():
    assert interquartile_mean(np.array([100.0, 1.0, 3.0, -50.0])) == 2.0
    assert interquartile_mean(np.array([5.0])) == 5.0
    assert interquartile_mean(np.array([4.0, 1.0, 1.0])) == 2.0
    assert interquartile_mean(np.arange(9.0)) == 4.0


def test_the_interval_has_the_coverage_that_it_names():
    generator = np.random.default_rng(1)
    intervals = [bootstrap_interval(generator.normal(size=40)) for _ in range(60)]
    assert 50 <= sum(low < 0 < high for low, high in intervals) <= 60
    width = np.mean([high - low for low, high in intervals])
    assert 0.5 < width < 0.9  # 2 * 1.96 * 1.08 / sqrt(40) is 0.67


def test_a_curve_that_ended_early_keeps_its_last_value():
    steps, values = matrix([np.array([(2, 1.0), (4, 2.0)]), np.array([(2, 5.0), (4, 6.0), (6, 7.0)])])
    assert steps.tolist() == [2, 4, 6]
    assert values.tolist() == [[1.0, 2.0, 2.0], [5.0, 6.0, 7.0]]


def test_how_many_are_near_the_optimum():
    paths = [[0.0, -9.5, -12.0, -10.0], [0.0, 0.0, -9.1, -9.0], [0.0] * 4]
    curves = [np.array(list(enumerate(path, 1))) for path in paths]
    near = summarize([], curves, -10.0)["near_optimum"]
    assert near == {"optimum": -10.0, "learners_after_steps": {"1": 0, "2": 1, "4": 1}, "median_first": 3.0}
    assert summarize([], curves[2:], -10.0)["near_optimum"]["median_first"] is None
    assert summarize([], curves, None) == {}


def test_what_is_not_in_a_summary_is_not_in_the_table():
    found = summarize([{"recent_return": 1.0}, {}], [], None)
    assert found == {"recent_return": {"interquartile_mean": 1.0, "interval": (1.0, 1.0)}}


def test_the_band_is_in_tensorboard(tmp_path):
    curves = [np.array([(10, float(i)), (20, 2.0 * i)]) for i in range(101)]
    path = draw(tmp_path, {"a=1": curves, "a=[2, 3]/..": curves[:1]}, "policy/bias", -10.0)
    assert path.read_bytes().startswith(b"\x89PNG")
    folders = sorted(entry.name for entry in tmp_path.iterdir() if entry.is_dir())
    assert folders == ["0-a=1", "1-a=_2_3_.."]
    events = EventAccumulator(str(tmp_path / folders[0])).Reload()
    for tag, value in (("percentile_5", 5.0), ("median", 50.0), ("percentile_95", 95.0)):
        found = [(event.step, event.value) for event in events.Scalars(f"policy/bias/{tag}")]
        assert found == [(10, value), (20, 2 * value)]
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["images"] == ["pictures/bias"]


def test_one_setting_needs_no_folders(tmp_path):
    draw(tmp_path, {"": [np.array([[1, 0.5]]), np.array([[1, math.pi]])]}, "rollout/episode_return", None)
    assert not [entry for entry in tmp_path.iterdir() if entry.is_dir()]
    assert (tmp_path / "episode_return.png").exists()


def test_the_file_is_whole_or_not_there(tmp_path):
    with pytest.raises(TypeError):
        write(tmp_path, {"learners": {1, 2}})
    assert list(tmp_path.iterdir()) == []
    write(tmp_path, {"learners": [1]})
    assert json.loads((tmp_path / "sweep.json").read_text())["learners"] == [1]
    assert len(list(tmp_path.iterdir())) == 1
