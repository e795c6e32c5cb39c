from dataclasses import fields

import gymnasium as gym
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from pgtorch import TrainConfig, train
from pgtorch.record.metrics import TAGS
from pgtorch.record.tensorboard import CHARTS, OTHER_CHARTS, _columns, _environment_defaults

PICTURES = {"pictures/bias", "pictures/p_norm", "pictures/expected_reward", "pictures/gradient"}
SETTINGS = {"learning_rate": 0.3, "optimizer": "adam", "normalize_rewards": True, "env_kwargs": {"hungry_above": 0.3}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(TrainConfig(num_updates=5, evaluate_every=2, run_dir=folder, **SETTINGS))
    return EventAccumulator(str(folder)).Reload()


def hyperparameters(run):
    content = run.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    return plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams


def text_of(run, tag):
    return run.Tensors(tag)[0].tensor_proto.string_val[0]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run without a bias."""
    folder = tmp_path_factory.mktemp("runs") / "cart"
    settings = {"num_updates": 2, "evaluate_every": 2, "evaluation_episodes": 2, "max_gradient_norm": None}
    train(TrainConfig("CartPole-v1", run_dir=folder, pictures=False, **settings))
    return EventAccumulator(str(folder)).Reload()


@pytest.mark.parametrize(("name", "page"), [("run", CHARTS), ("other", OTHER_CHARTS)])
def test_the_page_shows_tags_that_are_written(name, page, request):
    run = request.getfixturevalue(name)
    layout = layout_pb2.Layout.FromString(text_of(run, "custom_scalars__config__"))
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts == page
    written = run.Tags()["scalars"]
    for pattern in (pattern for patterns in charts.values() for pattern in patterns):
        assert any(tag.startswith(pattern.removesuffix(".*")) for tag in written), pattern


def test_every_setting_is_a_column_and_those_of_the_environment_too(run, other):
    session = hyperparameters(run)
    assert session["learning_rate"].number_value == 0.3
    assert session["seed"].number_value == 0
    assert session["optimizer"].string_value == "adam"
    assert session["normalize_rewards"].string_value == "True"
    assert session["env_kwargs.hungry_above"].number_value == 0.3
    assert session["env_kwargs.reward_scheme"].string_value == "binary"  # a default
    assert session["env_kwargs.large_portion_probability"].string_value == "[0.15, 0.8]"
    others = {name.removeprefix("env_kwargs.") for name in session if name.startswith("env_kwargs")}
    assert others == {"large_portion_probability", "hungry_above", "reward_scheme", "reward_scale"}
    assert session.keys() >= {field.name for field in fields(TrainConfig)} - {"run_dir", "env_kwargs"}
    assert "run_dir" not in session
    assert hyperparameters(other)["max_gradient_norm"].string_value == "None"  # a tuned setting that was switched off


def test_a_list_and_a_tuple_are_the_same_setting():
    """A run's own settings come back from JSON."""
    tuples, lists = (TrainConfig(env_kwargs={"probability": kind((0.1, 0.5))}) for kind in (tuple, list))
    assert _columns(tuples)["env_kwargs.probability"] == _columns(lists)["env_kwargs.probability"] == "[0.1, 0.5]"


def test_an_environment_may_have_unknown_arguments():
    gym.register("Made-v0", lambda **_: None)
    assert _environment_defaults("Made-v0") == {}
    assert _environment_defaults("Unknown-v0") == {}


def test_columns_come_from_all_runs_of_the_folder(run):
    """With an experiment summary TensorBoard would take them from one run."""
    assert set(run.PluginTagToContent("hparams")) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}


def test_every_tag_is_explained(run):
    page = text_of(run, "what each tag means/text_summary").decode()
    assert all(tag in TAGS for tag in run.Tags()["scalars"])
    for tag, meaning in TAGS.items():
        assert f"| `{tag}` | {meaning} |" in page


def test_pictures_are_shown(run):
    assert set(run.Tags()["images"]) == PICTURES
    for tag in PICTURES:
        image = run.Images(tag)[-1]
        assert (image.width, image.height) == (800, 450)
        assert image.encoded_image_string.startswith(b"\x89PNG")
