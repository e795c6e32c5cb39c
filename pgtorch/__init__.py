"""pgtorch: policy gradients that you can read, check and trust."""

from pgtorch.config import TrainConfig
from pgtorch.losses import policy_gradient_loss
from pgtorch.manual_gradient import manual_gradient
from pgtorch.policies import BiasPolicy
from pgtorch.rollout import Rollout, RolloutCollector
from pgtorch.trainer import SetupError, Trainer, TrainResult, train
from pgtorch.verification import GradientMismatchError

__all__ = [
    "BiasPolicy",
    "GradientMismatchError",
    "Rollout",
    "RolloutCollector",
    "SetupError",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "manual_gradient",
    "policy_gradient_loss",
    "train",
]
