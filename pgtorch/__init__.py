"""pgtorch: policy gradients that you can read, check and trust."""

from pgtorch.config import TrainConfig
from pgtorch.gradient_check import GradientMismatchError
from pgtorch.losses import policy_gradient_loss
from pgtorch.manual_gradient import manual_gradient
from pgtorch.policies import BiasPolicy, MLPPolicy, Policy
from pgtorch.rollout import Rollout, RolloutCollector
from pgtorch.trainer import SetupError, Trainer, TrainResult, train

__all__ = [
    "BiasPolicy",
    "GradientMismatchError",
    "MLPPolicy",
    "Policy",
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
