"""pgtorch: policy gradients that you can read, check and trust."""

from pgtorch.record.checkpoint import CheckpointError
from pgtorch.config import TrainConfig
from pgtorch.environment.checks import ContractError, NonFiniteError
from pgtorch.gradient_check import GradientMismatchError
from pgtorch.losses import policy_gradient_loss
from pgtorch.manual_gradient import manual_gradient
from pgtorch.policies import BiasPolicy, MLPPolicy, Policy
from pgtorch.rollout import Rollout, RolloutCollector
from pgtorch.run import SetupError, TrainResult, resume, train
from pgtorch.trainer import Trainer

__all__ = [
    "BiasPolicy",
    "CheckpointError",
    "ContractError",
    "GradientMismatchError",
    "MLPPolicy",
    "NonFiniteError",
    "Policy",
    "Rollout",
    "RolloutCollector",
    "SetupError",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "manual_gradient",
    "policy_gradient_loss",
    "resume",
    "train",
]
