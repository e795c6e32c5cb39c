"""Policies as a stranger writes them: plain torch.nn and torch.distributions, on rows of numbers [B, D]."""

import math

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.distributions import (
    AffineTransform,
    Beta,
    Categorical,
    Independent,
    Normal,
    TanhTransform,
    TransformedDistribution,
)

from pgtorch import Policy


class Images(gym.Env):
    """Pixels to see, and a choice or two numbers to make; an episode is one step."""

    observation_space = spaces.Box(0, 255, (3, 8, 8), np.uint8)

    def __init__(self, actions="choice"):
        self.action_space = spaces.Discrete(3) if actions == "choice" else spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.integers(0, 256, (3, 8, 8), dtype=np.uint8), {}

    def step(self, action):
        return self.reset()[0], float(np.sum(action)), True, False, {}


def register():
    """Register the images, once."""
    for name, actions in (("Images-v0", "choice"), ("ImagesBox-v0", "numbers")):
        if name not in gym.registry:
            gym.register(name, Images, kwargs={"actions": actions})


register()


class Stranger(Policy):
    """Features of a body; logits, or means with log standard deviations, from a linear head."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.size = spaces.flatdim(observation_space)
        self.image = getattr(observation_space, "shape", ())
        self.is_box = isinstance(action_space, spaces.Box)
        self.outputs = int(np.prod(action_space.shape)) if self.is_box else int(action_space.n)
        self.features = self.body()
        with torch.no_grad():
            width = self.features(torch.zeros(1, self.size)).shape[1]
        self.head = nn.Linear(width, self.outputs)
        if self.is_box:
            self.log_std = nn.Parameter(torch.full((self.outputs,), -0.5))

    def body(self):
        return nn.Sequential(nn.Linear(self.size, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())

    def forward(self, observation):
        return self.head(self.features(self.scaled(observation)))

    def scaled(self, observation):
        return observation / 255.0 if len(self.image) == 3 else observation

    def distribution(self, observation):
        output = self(observation)
        return Independent(Normal(output, self.log_std.exp()), 1) if self.is_box else Categorical(logits=output)


class Rectified(Stranger):
    def body(self):
        return nn.Sequential(nn.Linear(self.size, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())


class Smooth(Stranger):
    def body(self):
        return nn.Sequential(nn.Linear(self.size, 32), nn.GELU(), nn.Linear(32, 32), nn.SiLU())


class Normed(Stranger):
    def body(self):
        return nn.Sequential(nn.Linear(self.size, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 16), nn.LayerNorm(16))


class DroppedNothing(Stranger):
    """Dropout that is off, in two ways."""

    def body(self):
        layers = (nn.Linear(self.size, 32), nn.ReLU(), nn.Dropout(0.5).eval(), nn.Linear(32, 16), nn.ELU())
        return nn.Sequential(*layers, nn.Dropout(0.0))


class Convolutional(Stranger):
    """Convolutions and pooling: of an image, or of whatever else as one long row."""

    def body(self):
        if len(self.image) == 3:
            return nn.Sequential(
                nn.Unflatten(1, self.image),
                nn.Conv2d(self.image[0], 8, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(8, 16, 3),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(64, 32),
                nn.ReLU(),
            )
        layers = nn.Unflatten(1, (1, self.size)), nn.Conv1d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(8 * self.size, 32), nn.LeakyReLU())


class SharedTrunk(Stranger):
    """A value head on the policy's features."""

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space)
        self.value_head = nn.Linear(64, 1)

    def body(self):
        return nn.Sequential(nn.Linear(self.size, 64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh())

    def value(self, observation):
        return self.value_head(self.features(self.scaled(observation))).squeeze(-1)


class Buffered(Stranger):
    """Statistics of observations in float32 buffers, and means within bounds."""

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space)
        self.register_buffer("mean", torch.full((self.size,), 0.1, dtype=torch.float32))
        self.register_buffer("deviation", torch.full((self.size,), 1.3, dtype=torch.float32))

    def body(self):
        return nn.Sequential(nn.Linear(self.size, 32), nn.ReLU(), nn.Linear(32, 32), nn.Hardtanh())

    def scaled(self, observation):
        return (super().scaled(observation) - self.mean) / self.deviation


class Attention(nn.Module):
    """Each feature is a token; their mean after a layer of self-attention."""

    def __init__(self, size, width=16):
        super().__init__()
        self.embed, self.place = nn.Linear(1, width), nn.Parameter(0.1 * torch.randn(size, width))
        self.layer = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, observation):
        return self.layer(self.embed(observation.unsqueeze(-1)) + self.place).mean(1)


class Transformer(Stranger):
    def body(self):
        if self.size > 20:  # of an image, the means of its patches
            return nn.Sequential(nn.Unflatten(1, self.image), nn.AvgPool2d(4), nn.Flatten(), Attention(12))
        return Attention(self.size)


class Scaled(TransformedDistribution):
    """A Beta from 0 to 1, stretched to the bounds of the actions."""

    def __init__(self, beta, low, high):
        super().__init__(beta, [AffineTransform(low, high - low, cache_size=0)])
        self.width = high - low

    def entropy(self):
        return self.base_dist.entropy() + self.width.log()

    @property
    def mode(self):
        return self.transforms[0](self.base_dist.mode)


class BetaHead(Rectified):
    """For a Box with bounds."""

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space)
        self.register_buffer("low", torch.as_tensor(action_space.low))
        self.register_buffer("high", torch.as_tensor(action_space.high))
        self.head = nn.Linear(64, 2 * self.outputs)

    def distribution(self, observation):
        alpha, beta = (1 + nn.functional.softplus(self(observation))).chunk(2, dim=-1)
        return Independent(Scaled(Beta(alpha, beta), self.low, self.high), 1)


POINTS, WEIGHTS = (torch.as_tensor(numbers) for numbers in np.polynomial.hermite_e.hermegauss(60))


class SquashedNormal(TransformedDistribution):
    """The tanh of a normal number; its entropy by quadrature, its mode by iteration. The deviation is below 0.7."""

    def __init__(self, normal):
        super().__init__(normal, [TanhTransform(cache_size=1)])

    def entropy(self):
        normal = self.base_dist
        at = normal.loc.unsqueeze(-1) + normal.scale.unsqueeze(-1) * POINTS.to(normal.loc)
        log_slope = 2 * (math.log(2) - at - nn.functional.softplus(-2 * at))
        return normal.entropy() + log_slope @ (WEIGHTS.to(normal.loc) / math.sqrt(2 * math.pi))

    @property
    def mode(self):
        at = self.base_dist.loc
        for _ in range(500):
            at = self.base_dist.loc + 2 * self.base_dist.scale.square() * at.tanh()
        return at.tanh()


class Squashed(Rectified):
    """For a Box; actions stay between -1 and 1."""

    squash = SquashedNormal

    def distribution(self, observation):
        scale = 0.2 + 0.4 * self.log_std.sigmoid()
        return Independent(self.squash(Normal(self(observation), scale.expand(len(observation), -1))), 1)


RIGHT = {
    kind.__name__: kind
    for kind in (
        Stranger,
        Rectified,
        Smooth,
        Normed,
        DroppedNothing,
        Convolutional,
        SharedTrunk,
        Buffered,
        Transformer,
        BetaHead,
        Squashed,
    )
}
ONLY_FOR_NUMBERS = {"BetaHead", "Squashed"}


# Wrong ones


class _Factor(torch.autograd.Function):
    """The identity, whose derivative is 1.0001."""

    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, slope):
        return 1.0001 * slope


class WrongLast(Rectified):
    """The whole gradient is 1.0001 times too long, but for the log standard deviations."""

    def forward(self, observation):
        return _Factor.apply(super().forward(observation))


class WrongFirst(Rectified):
    """Only the first layer's gradient is."""

    def forward(self, observation):
        first, *rest = self.features
        return self.head(nn.Sequential(*rest)(_Factor.apply(first(self.scaled(observation)))))


class WrongConvolution(Convolutional):
    def forward(self, observation):
        shape, first, *rest = self.features
        return self.head(nn.Sequential(*rest)(_Factor.apply(first(shape(self.scaled(observation))))))


class Detached(Categorical):
    def entropy(self):
        return super().entropy().detach()


class DetachedEntropy(Rectified):
    """For a choice."""

    def distribution(self, observation):
        return Detached(logits=self(observation))


class Unadjusted(SquashedNormal):
    def log_prob(self, value):
        return self.base_dist.log_prob(self.transforms[0].inv(value))


class MissingJacobian(Squashed):
    squash = Unadjusted


class MeanForMode(SquashedNormal):
    @property
    def mode(self):
        return self.base_dist.loc.tanh()


class NotTheMode(Squashed):
    squash = MeanForMode


class Unlikeliest(Rectified):
    """For a choice: the mode is the unlikeliest."""

    def mode(self, observation):
        return self(observation).argmin(-1)
