import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from pgtorch import TrainConfig, train
from pgtorch.record.metrics import TAGS
from pgtorch.record.tensorboard import CHARTS

PICTURES = {"pictures/bias", "pictures/p_norm", "pictures/expected_reward", "pictures/gradient"}
SETTINGS = {"learning_rate": 0.3, "optimizer": "adam", "normalize_rewards": True, "max_gradient_norm": 0.5}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(TrainConfig(num_updates=5, evaluate_every=2, run_dir=folder, **SETTINGS))
    return EventAccumulator(str(folder)).Reload()


def text_of(run, tag):
    return run.Tensors(tag)[0].tensor_proto.string_val[0]


def test_the_page_shows_tags_that_are_written(run):
    layout = layout_pb2.Layout.FromString(text_of(run, "custom_scalars__config__"))
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts == CHARTS
    written = run.Tags()["scalars"]
    for pattern in (pattern for patterns in charts.values() for pattern in patterns):
        assert any(tag.startswith(pattern.removesuffix(".*")) for tag in written), pattern


def test_settings_are_hyperparameters_of_the_run_itself(run):
    contents = run.PluginTagToContent("hparams")
    session = plugin_data_pb2.HParamsPluginData.FromString(contents["_hparams_/session_start_info"]).session_start_info
    assert session.hparams["learning_rate"].number_value == 0.3
    assert session.hparams["seed"].number_value == 0
    assert session.hparams["optimizer"].string_value == "adam"  # since it is not the default
    assert session.hparams["normalize_rewards"].string_value == "True"
    assert session.hparams["max_gradient_norm"].number_value == 0.5
    assert not {"discount", "run_dir"} & set(session.hparams)
    experiment = plugin_data_pb2.HParamsPluginData.FromString(contents["_hparams_/experiment"]).experiment
    assert {info.name for info in experiment.hparam_infos} == set(session.hparams)
    assert {info.name.tag for info in experiment.metric_infos} <= set(run.Tags()["scalars"])


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


def test_none_is_a_hyperparameter_too(tmp_path):
    """A tuned setting that was switched off."""
    config = TrainConfig("CartPole-v1", max_gradient_norm=None, num_updates=1, run_dir=tmp_path, pictures=False)
    accumulator = EventAccumulator(str(train(config).run_dir)).Reload()
    content = accumulator.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    session = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert session.hparams["max_gradient_norm"].string_value == "None"
