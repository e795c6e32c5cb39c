import hashlib
import json
import math
import statistics
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

from pgtorch import BiasPolicy, CheckpointError, TrainConfig, train
from pgtorch.record import metrics
from pgtorch.record.metrics import GREEDY, SAMPLED, TAGS, History, MetricsWriter, read_metrics, read_record
from pgtorch.record.tensorboard import BIAS, MEAN_RETURN, is_shown

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's reader

LINES = "metrics.jsonl"
ELSEWHERE = {"loss/value", GREEDY, SAMPLED}  # the lesson has no value function; for evaluations see test_evaluator


def events(folder):
    return EventAccumulator(str(folder), size_guidance={SCALARS: 0, IMAGES: 0}).Reload()


def write(folder, biases, history=None):
    """Metrics of updates with these biases; gives what a checkpoint keeps."""
    with MetricsWriter(folder, history) as writer:
        first = 0 if history is None else history.num_updates
        for update, bias in enumerate(biases, first + 1):
            writer.write(update, 2 * update, {"policy/bias": bias})
        return writer.save()


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# A whole run.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(TrainConfig(num_updates=300, check_update=1, run_dir=tmp_path_factory.mktemp("run"))).run_dir


def test_tensorboard_and_jsonl_hold_the_same(run):
    lines, accumulated = read_metrics(run), events(run)
    assert [line["update"] for line in lines] == list(range(1, 301))
    for tag in set(TAGS) - {*ELSEWHERE, "time/env_steps_per_second", BIAS, MEAN_RETURN}:
        scalars = accumulated.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [line["env_steps"] for line in lines], tag
        assert [scalar.value for scalar in scalars] == [torch.tensor(line[tag]).item() for line in lines], tag


def test_the_first_screen_has_the_way_of_the_bias_and_the_mean_return(run):
    """At the start, at every update that is shown, and at the last; the mean is that of the last half until then."""
    lines, accumulated = read_metrics(run), events(run)
    shown = [update for update in range(1, 301) if is_shown(update) or update == 300]
    way = accumulated.Scalars(BIAS)
    assert [scalar.step for scalar in way] == [0, *shown]
    biases = [0.0, *(lines[update - 1]["policy/bias"] for update in shown)]
    assert [scalar.value for scalar in way] == pytest.approx(biases, rel=1e-6)
    means = accumulated.Scalars(MEAN_RETURN)
    assert [scalar.step for scalar in means] == shown
    returns = [line["rollout/episode_return"] for line in lines]
    expected = [statistics.fmean(returns[update // 2 : update]) for update in shown]
    assert [scalar.value for scalar in means] == pytest.approx(expected, rel=1e-6)


def test_what_the_first_screen_shows_depends_on_the_update_alone():
    shown = [update for update in range(1, 2**20) if is_shown(update)]
    assert shown[:24] == [*range(1, 16), 16, 18, 20, 22, 24, 26, 28, 30, 32]
    assert all(len([u for u in shown if 2**k <= u < 2 ** (k + 1)]) == 8 for k in range(3, 20))


def test_every_tag_is_explained_and_moves(run):
    accumulated = events(run)
    tags = set(accumulated.Tags()["scalars"])
    assert tags == set(TAGS) - ELSEWHERE
    still = {  # 0 and 1 in the lesson; see below
        "gradient/absolute_difference",
        "gradient/difference_in_units_of_u_c",
        "rollout/episode_length",
    }
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


def test_a_picture_is_shown(run):
    accumulated = events(run)
    assert "pictures/bias" in accumulated.Tags()["images"]
    assert accumulated.Images("pictures/bias")[0].encoded_image_string == (run / "bias.png").read_bytes()


# The writer.


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
    whole = json.dumps({"update": 1, "env_steps": 1, "policy/bias": 0.5})
    (tmp_path / LINES).write_text(whole + "\n" + whole[:-4])
    assert read_metrics(tmp_path) == [json.loads(whole)]


WRONG_LINES = [
    "",
    "{",
    "nonsense",
    "[1, 2]",
    '{"update": 1}',
    '{"update": 1.0, "env_steps": 1}',
    '{"update": 2, "env_steps": 1, "policy/bias": "x"}',
    '{"update": 2, "env_steps": 1, "policy/bias": {}}',
    '{"update": true, "env_steps": 1}',
    "[" * 100_000,
]


@pytest.mark.parametrize("line", WRONG_LINES, ids=lambda line: line[:30])
def test_a_damaged_line_is_named(tmp_path, line):
    write(tmp_path, [1.0])
    with (tmp_path / LINES).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 must be numbers by tag"):
        read_metrics(tmp_path)


# Going on from a checkpoint.


def test_what_is_read_back_is_what_was_written(tmp_path):
    biases = [math.sin(i) for i in range(500)]
    with MetricsWriter(tmp_path) as writer:
        writer.begin(TrainConfig(), {"policy/bias": 0.25})
        for update, bias in enumerate(biases, 1):
            writer.write(update, 3 * update, {"policy/bias": bias, "gradient/absolute_difference": abs(bias)})
        record, written = writer.save(), writer.history
    found = read_record(tmp_path, record)
    assert (found.num_updates, found.env_steps, found.start) == (500, 1500, {"policy/bias": 0.25})
    assert found.curves["policy/bias"].points == written.curves["policy/bias"].points
    assert found.summary() == written.summary()
    assert found.digest.digest() == written.digest.digest()
    assert record["sha256"] == hashlib.sha256((tmp_path / LINES).read_bytes()).hexdigest()


def test_what_was_written_after_the_checkpoint_is_cut_off(tmp_path):
    record = write(tmp_path, [1.0, 2.0])
    write(tmp_path, [8.0, 9.0])  # by a process that saved no checkpoint, with an event file that none knows
    assert len(list(tmp_path.glob("events.*"))) == 2
    write(tmp_path, [3.0], read_record(tmp_path, record))
    assert [(line["update"], line["policy/bias"]) for line in read_metrics(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert [(s.step, s.value) for s in events(tmp_path).Scalars("policy/bias")] == [(2, 1.0), (4, 2.0), (6, 3.0)]


def test_files_of_others_stay(tmp_path):
    record = write(tmp_path, [1.0])
    mine = ["events.out.tfevents.1700000000.host.1.0", "events.out.tfevents.copy", "my-metrics.jsonl"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    write(tmp_path, [2.0], read_record(tmp_path, record))
    assert [(tmp_path / name).read_text() for name in mine] == ["mine"] * 3
    assert not set(mine) & record["sizes"].keys()


def one_digit(data):
    return data.replace(b"1.5", b"1.6")


def two_lines_swapped(data):
    first, second, *rest = data.splitlines(keepends=True)
    return b"".join([second, first, *rest])


@pytest.mark.parametrize(
    "damage", [one_digit, two_lines_swapped, lambda data: data[:-2] + b"\0\n", lambda data: data[:-1]]
)
def test_metrics_that_changed_are_found_and_nothing_is_cut(tmp_path, damage):
    record = write(tmp_path, [0.5, 1.5, 2.5])
    (tmp_path / LINES).write_bytes(damage((tmp_path / LINES).read_bytes()))
    before = files(tmp_path)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl (has changed since the checkpoint|must hold at least)"):
        read_record(tmp_path, record)
    assert files(tmp_path) == before


def test_missing_metrics_are_found(tmp_path):
    record = write(tmp_path, [1.0])
    size = (tmp_path / LINES).stat().st_size
    (tmp_path / LINES).unlink()
    with pytest.raises(CheckpointError, match=rf"metrics\.jsonl must hold at least the {size} bytes .* got 0"):
        read_record(tmp_path, record)


def test_event_files_may_be_missing_but_not_shorter(tmp_path):
    record = write(tmp_path, [1.0])
    (events_file,) = tmp_path.glob("events.*")
    events_file.write_bytes(events_file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"events\.out.* must hold at least"):
        read_record(tmp_path, record)
    events_file.unlink()
    assert read_record(tmp_path, record).num_updates == 1


FORGED = [
    {},
    {"sizes": {}},
    {"sizes": []},
    {"sizes": {LINES: -5}},
    {"sizes": {LINES: True}},
    {"sizes": {LINES: 1.0}},
    {"sizes": {LINES: "x"}},
    {"sizes": {LINES: 10**9}},
    {"sizes": {LINES: 0, "../outside": 1}},
    {"sizes": {LINES: 0, "config.json": 1}},
    {"sizes": {LINES: 0, 7: 1}},
    {"sizes": {LINES: 0, "events.out.tfevents.1/x.pgtorch": 1}},
    {"sha256": 3},
    {"sha256": "0" * 64},
    {"start": []},
    {"start": {"policy/bias": "x"}},
    {"pending": None},
    {"pending": {"policy/bias": True}},
    {"extra": 1},
]


@pytest.mark.parametrize("change", FORGED, ids=str)
def test_a_forged_record_is_refused(tmp_path, change):
    record = write(tmp_path, [1.0])
    before = files(tmp_path)
    with pytest.raises(CheckpointError):
        read_record(tmp_path, {**record, **change} if change else change)
    assert files(tmp_path) == before


@pytest.mark.parametrize("line", WRONG_LINES, ids=lambda line: line[:30])
def test_damaged_metrics_with_a_forged_record_are_refused(tmp_path, line):
    record = write(tmp_path, [1.0])
    data = (tmp_path / LINES).read_bytes() + line.encode() + b"\n"
    (tmp_path / LINES).write_bytes(data)
    sizes = {**record["sizes"], LINES: len(data)}
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 2"):
        read_record(tmp_path, {**record, "sizes": sizes, "sha256": hashlib.sha256(data).hexdigest()})


# The history, in bounded memory.


def history_of(biases):
    history = History()
    for update, bias in enumerate(biases, 1):
        history.add(update, update, {"policy/bias": bias})
    return history


def test_the_summary_is_of_the_last_line_and_of_the_last_half():
    history = History()
    for i in range(5):
        figures = {"policy/bias": float(i), "policy/p_norm/hunger_0.0": i / 10, "policy/p_norm/hunger_1.0": i / 5}
        history.add(i + 1, i + 1, figures | ({"gradient/absolute_difference": 0.25 - i / 10} if i in (1, 2) else {}))
    assert history.summary() == {
        "bias": 4.0,
        "late_bias": 3.0,
        "late_bias_deviation": pytest.approx((2 / 3) ** 0.5),
        "late_bias_drift": pytest.approx(1.5 / (2 / 3) ** 0.5),  # from 2 to the mean of 3 and 4
        "p_norm_hunger_0": 0.4,
        "p_norm_hunger_1": 0.8,
        "largest_gradient_difference": pytest.approx(0.15),
    }


def test_of_nothing_there_is_nothing_to_say():
    assert History().summary() == {}
    history = History()
    history.add(1, 1, {"rollout/episode_return": 1.0})
    assert history.summary() == {}


@pytest.mark.parametrize("length", [1, 2, 3, 4095, 4096, 4097, 8193, 50_001])
def test_a_long_curve_keeps_evenly_spaced_points_and_exact_means(length):
    values = [math.sin(i / 50) - 10 for i in range(length)]
    curve = history_of(values).curves["policy/bias"]
    points, gaps = curve.points, [b.update - a.update for a, b in zip(curve.points, curve.points[1:], strict=False)]
    assert curve.count == length
    assert len(points) <= 4097
    assert (points[0].update, points[-1].update) == (1, length)
    assert len(set(gaps[:-1])) <= 1
    assert all(point.value == values[point.update - 1] for point in points)
    start = next(p.update for p in points if p.update - 1 >= length // 2) - 1
    assert start - length // 2 < max(length / 2000, 1)
    assert curve.late() == pytest.approx(
        (statistics.fmean(values[start:]), statistics.pstdev(values[start:])), rel=1e-6
    )
    count, means = curve.running_mean(20)
    for mean, point in list(zip(means, points, strict=True))[:: max(1, len(points) // 50)]:
        if (point.update - 1) % max(gaps[:1], default=1) == 0:  # a point of the even ones
            assert mean == pytest.approx(statistics.fmean(values[max(0, point.update - count) : point.update]))


def test_rare_values_are_not_lost():
    """Episodes that end in each fourth update only, and never in one that an even thinning would keep."""
    history = History()
    for update in range(1, 40_001):
        history.add(update, update, {"rollout/episode_return": update} if update % 4 == 3 else {})
    points = history.curves["rollout/episode_return"].points
    assert 2048 <= len(points) <= 4097
    assert (points[0].update, points[-1].update) == (3, 39_999)


def test_a_constant_bias_has_no_deviation():
    mean, deviation = history_of([0.1] * 1001).curves["policy/bias"].late()
    assert (mean, deviation) == (pytest.approx(0.1), pytest.approx(0, abs=1e-6))


@pytest.mark.parametrize("length", [40, 100, 5000])
def test_a_straight_line_drifts_and_what_swings_does_not(length):
    line, swing = [0.1 * i for i in range(length)], [(-1.0) ** i for i in range(length)]
    assert history_of(line).curves["policy/bias"].drift() == pytest.approx(3**0.5, rel=0.1)
    assert history_of(swing).curves["policy/bias"].drift() < 0.1
    assert history_of([2.0] * length).curves["policy/bias"].drift() == 0.0


def test_of_two_values_no_drift_is_known():
    assert history_of([1.0, 5.0]).curves["policy/bias"].drift() >= 0.0
    assert history_of([1.0]).curves["policy/bias"].drift() == 0.0


def test_memory_does_not_grow_with_the_run(monkeypatch):
    monkeypatch.setattr(metrics, "MOST_POINTS", 64)
    kept = [len(history_of([1.0] * length).curves["policy/bias"].points) for length in (64, 65, 10_000)]
    assert max(kept) <= 65


# The hash of a run.


def hashed(folder, biases=(1.0, 2.0), policy=None, resumed_after=0):
    folder.mkdir()
    history = read_record(folder, write(folder, biases[:resumed_after])) if resumed_after else None
    with MetricsWriter(folder, history) as writer:
        for update, bias in list(enumerate(biases, 1))[resumed_after:]:
            writer.write(update, 2 * update, {"policy/bias": bias})
        return writer.hash({"policy": policy or BiasPolicy(bias=3.0)})


def test_the_hash_is_of_metrics_and_parameters(tmp_path):
    first = hashed(tmp_path / "a")
    assert len(first) == 64
    assert hashed(tmp_path / "b") == first
    assert hashed(tmp_path / "c", resumed_after=1) == first
    others = [
        hashed(tmp_path / "d", biases=(1.0, math.nextafter(2.0, 3.0))),
        hashed(tmp_path / "e", biases=(1.0,)),
        hashed(tmp_path / "f", policy=BiasPolicy(bias=3.0000002)),
        hashed(tmp_path / "g", policy=BiasPolicy(bias=3.0, weight=21.0)),
        hashed(tmp_path / "h", policy=BiasPolicy(bias=3.0).double()),
    ]
    assert len({first, *others}) == 6


def test_modules_of_any_dtype_and_shape_are_hashed(tmp_path):
    def of(**tensors):
        with MetricsWriter(tmp_path) as writer:
            return writer.hash({"odd": SimpleNamespace(state_dict=lambda: tensors)})

    odd = {"half": torch.ones(2).bfloat16(), "flag": torch.tensor(True), "strided": torch.arange(6)[::2]}
    assert of(**odd) == of(**odd)
    hashes = {
        of(**odd),
        of(**odd, none=torch.zeros(0)),
        of(**{**odd, "half": torch.ones(2).half()}),
        of(**{**odd, "strided": torch.arange(6)[1::2]}),
        of(a=torch.zeros(4)),
        of(a=torch.zeros(2, 2)),
        of(b=torch.zeros(4)),
        of(a=torch.zeros(4, dtype=torch.int32)),
    }
    assert len(hashes) == 8
