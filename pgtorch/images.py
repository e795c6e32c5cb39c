"""Images as observations: which spaces count as images, and the convolutions that read them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

SMALLEST_SIDE, MOST_CHANNELS = 5, 16
IMAGES = (
    f"a Box of uint8 or bool, [H, W, C] or [C, H, W], with sides of at least {SMALLEST_SIDE} pixels and at most "
    f"{MOST_CHANNELS} channels"
)

# Output channels, kernel size and stride of each layer. The padding, stride - 1, makes every pixel count.
LARGE = ((16, 8, 4), (32, 4, 2))  # if both sides have at least 36 pixels, as Atari's 84
SMALL = ((16, 3, 1), (32, 3, 2))
LARGE_SIDE = 36


def image_shape(space: spaces.Space[Any]) -> tuple[int, int, int] | None:
    """C, H and W of the images in a space; None if it does not hold images.

    The channels are the last axis, unless the first is shorter.
    """
    if not isinstance(space, spaces.Box) or space.dtype not in (np.uint8, np.bool_) or len(space.shape) != 3:  # noqa: PLR2004
        return None
    first, middle, last = space.shape
    shape = (first, middle, last) if first < last else (last, first, middle)
    return shape if shape[0] <= MOST_CHANNELS and min(shape[1:]) >= SMALLEST_SIDE else None


class Convolutions(nn.Module):
    """Two convolutions with ReLU, from an image to a row of features.

    Args:
        observation_space: The space of the images.
        pixel_scale: What pixels are multiplied by.

    Attributes:
        pixel_scale: The same, as a buffer.
        output_space: The space of the features, for the layers that follow.

    Raises:
        TypeError: If the space does not hold images.

    Source: Mnih and others, "Playing Atari with deep reinforcement learning" (2013), for the layers of large images.
    """

    pixel_scale: Tensor

    def __init__(self, observation_space: spaces.Space[Any], pixel_scale: float) -> None:
        super().__init__()
        shape = image_shape(observation_space)
        if shape is None:
            raise TypeError(f"policy 'cnn' takes images, {IMAGES}, but the environment has {observation_space}")
        assert observation_space.shape is not None
        self.shape = tuple(observation_space.shape)
        self.channels_last = self.shape != shape
        self.register_buffer("pixel_scale", torch.tensor(pixel_scale))  # so that it is saved with the weights
        self.layers = nn.ModuleList()
        channels, *sides = shape
        for filters, kernel, stride in LARGE if min(sides) >= LARGE_SIDE else SMALL:
            padding = max(stride - 1, 1)
            layer = nn.Conv2d(channels, filters, kernel, stride, padding)
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            self.layers.append(layer)
            channels, sides = filters, [(side + 2 * padding - kernel) // stride + 1 for side in sides]
        self.output_space = spaces.Box(0.0, np.inf, (channels * math.prod(sides),))

    def forward(self, observation: Tensor) -> Tensor:
        """Features [B, F] of images [B, *shape], or flattened, [B, D]."""
        image = observation.reshape(-1, *self.shape)
        if self.channels_last:
            image = image.permute(0, 3, 1, 2)
        weight = next(self.parameters())
        features = image.to(weight.dtype) * self.pixel_scale
        for layer in self.layers:
            features = layer(features).relu()
        return features.flatten(1)
