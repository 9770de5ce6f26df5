"""What flows where: numbers that describe an attention map.

Shapes: weights `(…, n_q, n_k)`, row = query, column = key, each row a distribution over the keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["AttentionAnalysis", "attention_entropy", "mean_attention_distance"]


def attention_entropy(weights: Tensor) -> Tensor:
    """How undecided each query is, in nats: 0 if it looks at one key, `log n_k` if at all keys alike.

    `H_i = -Σ_j w_ij log w_ij`, with `0 · log 0 = 0`. No small number is added to the weights, so a one-hot
    row is exactly 0, and so is the all-zero row of a query that may attend nowhere. Gradients are finite
    everywhere.

    Args:
        weights: `(…, n_q, n_k)`, after the softmax. Of several heads, pass each: the entropy of their mean
            is another thing.

    Returns:
        `(…, n_q)`, in the dtype of the weights (computed in float32 at least).

    Raises:
        ValueError: for weights that are not floating-point matrices.
    """
    wide = _as_maps(weights)
    tiny = torch.finfo(wide.dtype).tiny
    return (0.0 - (wide * wide.clamp_min(tiny).log()).sum(dim=-1)).to(weights.dtype)


def mean_attention_distance(weights: Tensor) -> Tensor:
    """How far away queries look: the mean over queries of the expected distance to the key.

    `1/n Σ_i Σ_j w_ij |i - j|`: 0 where every query looks at itself, `(n² - 1) / 3n` for uniform weights. A
    query that may attend nowhere counts as 0.

    Args:
        weights: `(…, n, n)`, after the softmax.

    Returns:
        `(…)`, in the dtype of the weights (computed in float32 at least).

    Raises:
        ValueError: for maps that are not square: query `i` and key `i` must be the same place.

    Dosovitskiy et al., An Image is Worth 16x16 Words, 2021 (arXiv:2010.11929), figure 7, in two dimensions.
    """
    wide = _as_maps(weights)
    n_q, n_k = wide.shape[-2:]
    if n_q != n_k or n_q == 0:
        raise ValueError(f"weights must be (…, n, n) with n >= 1, got {tuple(weights.shape)}")
    place = torch.arange(n_q, device=wide.device, dtype=wide.dtype)
    distance = (place[:, None] - place).abs()
    return (wide * distance).sum(dim=-1).mean(dim=-1).to(weights.dtype)


class AttentionAnalysis:
    """Describe the maps of a transformer, or of CNN attention, by a few numbers and words."""

    @staticmethod
    def analyze_transformer_attention(attention_weights: Tensor) -> dict[str, Any]:
        """Summarise the weights of one layer.

        Args:
            attention_weights: `(B, h, n_q, n_k)`, after the softmax.

        Returns:
            A dictionary:

            - `max_attention` `(B, n_q)`: the largest weight of the mean over heads; near 1 only where the
              heads agree on a key;
            - `attention_entropy` `(B, n_q)`: the mean over heads of their entropies, in nats. It is not the
              entropy of their mean, which calls two heads undecided (0.69) that look at one key each, but not
              at the same one;
            - `global_connectivity`: whether every query reaches every key through some head, in every
              sequence (False under a mask);
            - `pattern`: `"sequence-to-sequence"`;
            - `max_attention_per_head` and `entropy_per_head` `(B, h, n_q)`: the heads apart.

        Raises:
            ValueError: for weights of another rank, or without heads, queries or keys.
        """
        shape = tuple(attention_weights.shape)
        if attention_weights.ndim != 4 or 0 in shape:
            raise ValueError(f"attention_weights must be (B, h, n_q, n_k), none of them 0, got {shape}")
        entropy = attention_entropy(attention_weights)
        reached = (attention_weights > 0).any(dim=1)
        return {
            "max_attention": attention_weights.mean(dim=1).amax(dim=-1),
            "attention_entropy": entropy.mean(dim=1),
            "global_connectivity": bool(reached.all()),
            "pattern": "sequence-to-sequence",
            "max_attention_per_head": attention_weights.amax(dim=-1),
            "entropy_per_head": entropy,
        }

    @staticmethod
    def analyze_cnn_attention(feature_map: Tensor, attention_map: Tensor) -> dict[str, Any]:
        """Tell channel attention from spatial attention, by the shapes of both tensors.

        One weight per channel of the feature map, `(B, C, 1, 1)`, is channel attention; one per place,
        `(B, 1, H, W)`, is spatial attention, also where the height is 1. The two shapes coincide only for
        `C = H = W = 1`, where one number is both: that is called channel attention.

        Args:
            feature_map: `(B, C, H, W)`, what the weights multiply.
            attention_map: `(B, C, 1, 1)` or `(B, 1, H, W)`.

        Returns:
            A dictionary:

            - `attention_type`: `"channel"` or `"spatial"`;
            - `local_connectivity`: True for spatial attention, whose weight at a place comes from the
              neighbourhood of the place; False for channel attention, which pools the whole map;
            - `pattern`: `"channel-selection"` or `"spatial-hierarchy"`.

        Raises:
            ValueError: if the map has neither of the two shapes.
        """
        if feature_map.ndim != 4:
            raise ValueError(f"feature_map must be (B, C, H, W), got {tuple(feature_map.shape)}")
        batch, channels, height, width = feature_map.shape
        per_channel, per_place = (batch, channels, 1, 1), (batch, 1, height, width)
        seen = tuple(attention_map.shape)
        if seen not in (per_channel, per_place):
            raise ValueError(
                f"for a feature map {tuple(feature_map.shape)} an attention map is {per_channel} (channel) "
                f"or {per_place} (spatial), got {seen}"
            )
        spatial = seen != per_channel
        return {
            "attention_type": "spatial" if spatial else "channel",
            "local_connectivity": spatial,
            "pattern": "spatial-hierarchy" if spatial else "channel-selection",
        }


def _as_maps(weights: Tensor) -> Tensor:
    """The weights in float32 or wider, checked to be matrices."""
    if weights.ndim < 2 or not weights.is_floating_point():
        seen = f"{weights.dtype} {tuple(weights.shape)}"
        raise ValueError(f"weights must be a floating-point tensor (…, n_q, n_k), got {seen}")
    return weights.float() if weights.dtype in (torch.float16, torch.bfloat16) else weights
