import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from pgtorch import TrainConfig, train
from pgtorch.record.board import CHARTS
from pgtorch.record.metrics import TAGS

PICTURES = {"pictures/bias", "pictures/p_norm", "pictures/expected_reward", "pictures/gradient"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(TrainConfig(num_updates=5, learning_rate=0.3, optimizer="adam", run_dir=folder))
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def text_of(run, tag):
    return run.Tensors(tag)[0].tensor_proto.string_val[0]


def test_the_page_shows_tags_that_are_written(run):
    layout = layout_pb2.Layout.FromString(text_of(run, "custom_scalars__config__"))
    patterns = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    assert patterns == [tag for tags in CHARTS.values() for tag in tags]
    written = run.Tags()["scalars"]
    for pattern in patterns:
        assert any(tag.startswith(pattern.removesuffix(".*")) for tag in written), pattern


def test_settings_are_hyperparameters_of_the_run_itself(run):
    contents = run.PluginTagToContent("hparams")
    session = plugin_data_pb2.HParamsPluginData.FromString(contents["_hparams_/session_start_info"]).session_start_info
    assert session.hparams["learning_rate"].number_value == 0.3
    assert session.hparams["seed"].number_value == 0
    assert session.hparams["optimizer"].string_value == "adam"  # since it is not the usual one
    assert "discount" not in session.hparams
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
