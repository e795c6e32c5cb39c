"""What TensorBoard shows of a run beside its curves: a page of the lesson, the settings, and what each tag means.

The messages of three plugins (custom scalars, HParams, text), made from TensorBoard's own protocol buffers: its helpers
for them import TensorFlow, or its stand-in, which takes longer than five hundred updates.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from pgtorch.config import TrainConfig

# One page: title of each chart, and patterns of the tags on it.
CHARTS = {
    "The bias": ["policy/bias"],
    "P(Norm) when not hungry, half-way, very hungry": [r"policy/p_norm/hunger_.*"],
    "The gradient: by autograd, and by hand": ["gradient/autograd", "gradient/manual"],
    "Their difference": ["gradient/absolute_difference"],
    "What an episode brings": ["rollout/episode_return"],
}
HYPERPARAMETERS = ("env_id", "learning_rate", "num_envs", "num_steps", "seed")  # and what is not as it would be
OUTCOMES = ("rollout/episode_return", "policy/bias")  # beside the settings, to compare runs by


def about(config: TrainConfig, tags: Mapping[str, str]) -> list[Summary.Value]:
    """What is written once, when a run begins.

    Args:
        config: Its settings.
        tags: Each tag's meaning.
    """
    rows = "\n".join(f"| `{tag}` | {meaning} |" for tag, meaning in tags.items())
    return [_page(), *_settings(config), _text("what each tag means", f"| tag | meaning |\n|---|---|\n{rows}")]


def _page() -> Summary.Value:
    charts = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=patterns))
        for title, patterns in CHARTS.items()
    ]
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="The lesson on one page", chart=charts)])
    return _value("custom_scalars__config__", "custom_scalars", text=layout.SerializeToString())


def _text(tag: str, markdown: str) -> Summary.Value:
    return _value(f"{tag}/text_summary", "text", text=markdown.encode())


def _settings(config: TrainConfig) -> list[Summary.Value]:
    """The settings that tell runs apart; numbers as numbers, so that TensorBoard can draw them."""
    usual = TrainConfig(config.env_id).to_dict()
    experiment = api_pb2.Experiment(metric_infos=[{"name": {"tag": tag}} for tag in OUTCOMES])
    session = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in config.to_dict().items():
        if name not in HYPERPARAMETERS and (value == usual[name] or name == "run_dir"):
            continue
        info = experiment.hparam_infos.add(name=name, type=api_pb2.DATA_TYPE_STRING)
        if isinstance(value, bool):
            info.type, session.hparams[name].bool_value = api_pb2.DATA_TYPE_BOOL, value
        elif isinstance(value, int | float):
            info.type, session.hparams[name].number_value = api_pb2.DATA_TYPE_FLOAT64, value
        else:
            session.hparams[name].string_value = "none" if value is None else str(value)
    data = {
        "experiment": plugin_data_pb2.HParamsPluginData(experiment=experiment),
        "session_start_info": plugin_data_pb2.HParamsPluginData(session_start_info=session),
    }
    return [_value(f"_hparams_/{name}", "hparams", content.SerializeToString()) for name, content in data.items()]


def _value(tag: str, plugin: str, content: bytes = b"", text: bytes | None = None) -> Summary.Value:
    """A value for a plugin, which finds what it needs in `content` or in the tensor."""
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin, content=content))
    if text is None:
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_FLOAT, float_val=[0.0], tensor_shape=shape)
    else:
        tensor = TensorProto(dtype=DT_STRING, string_val=[text], tensor_shape=TensorShapeProto())
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
