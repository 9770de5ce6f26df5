"""What flows where: numbers that describe an attention map, and what a place of a network depends on.

Shapes: weights `(…, n_q, n_k)`, row = query, column = key, each row a distribution over the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "AttentionAnalysis",
    "attention_agreement",
    "attention_entropy",
    "attention_on_mask",
    "attention_rollout",
    "mean_attention_distance",
    "receptive_field",
    "tokens_over_image",
]


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


def receptive_field(function: Callable[[Tensor], Tensor], x: Tensor, place: tuple[int, int]) -> Tensor:
    """Which pixels of an input one place of the output depends on, and how strongly: measured by gradients.

    `field_ij = Σ_b Σ_c' Σ_c |∂ output_(b, c', place) / ∂ x_(b, c, i, j)| / B`: exactly 0 where the place depends on
    nothing. One channel of the output after the other, so that no two cancel. A gradient is local: behind a ReLU or a
    maximum it is 0 as well where *these* inputs switch a path off, and several random inputs show more than one.

    Args:
        function: from maps `(B, C, H, W)` to maps `(B, C', H', W')`. A module is called in eval mode, and is
            left as it was.
        x: the inputs, `(B, C, H, W)`.
        place: row and column of the output; negative ones count from the end.

    Returns:
        `(H, W)`, not negative, in the dtype of `x`.

    Cost: one forward pass, and one backward pass for each of the `C'` channels.

    Raises:
        ValueError: for an input or output that is not such a map, an output of another batch size, or a place
            outside of the output.

    Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural Networks, 2016
    (arXiv:1701.04128).
    """
    if x.ndim != 4 or not x.is_floating_point() or 0 in x.shape:
        raise ValueError(
            f"x must be a floating-point (B, C, H, W), none of them 0, got {x.dtype} {tuple(x.shape)}"
        )
    training = [m for m in function.modules() if m.training] if isinstance(function, nn.Module) else []
    leaf = x.detach().clone().requires_grad_()
    try:
        for module in training:
            module.training = False
        with torch.enable_grad():
            output = function(leaf)
    finally:
        for module in training:
            module.training = True
    if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != len(x):
        seen = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"function must return a map ({len(x)}, C', H', W'), got {seen}")
    (row, column), (height, width) = place, output.shape[2:]
    if not (-height <= row < height and -width <= column < width):
        raise ValueError(f"place {place} lies outside of an output of {height} x {width}")
    field = x.new_zeros(x.shape[2:])
    if not output.requires_grad:
        return field
    with torch.enable_grad():
        values = output[:, :, row, column].sum(dim=0).unbind()
    for value in values:
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
        if gradient is not None:
            field += gradient.abs().sum(dim=(0, 1))
    return field / len(x)


def attention_rollout(weights: Sequence[Tensor], *, residual: float = 0.5) -> Tensor:
    """How much of each input token arrives at each place after several layers, if weights were all that mixes.

    `R = Ã_L … Ã_2 Ã_1` with `Ã_l = residual · I + (1 - residual) · mean over heads of A_l`, rows of `Ã_l` scaled to
    add up to 1: the residual connection carries a token past the layer, the heads carry the rest. It follows the
    weights alone: values, feed-forward layers and the sizes of the vectors are not in it.

    Args:
        weights: one `(B, h, n, n)` for each layer, the first layer first; a single `(B, h, n, n)` counts as one.
        residual: the share that goes past each layer, 0 to 1; the paper takes one half.

    Returns:
        `(B, n, n)`, row = place after the last layer, column = input token; each row adds up to 1. With
        `residual = 0`, the row of a query that may attend nowhere is zero.

    Cost: one product of `n × n` matrices for each layer and sequence, `2·n³` FLOPs.

    Raises:
        ValueError: without layers, for maps that are not square or do not fit each other, a negative weight, or a
            `residual` that is no share.

    Abnar and Zuidema, Quantifying Attention Flow in Transformers, 2020 (arXiv:2005.00928), section 3.
    """
    layers = [weights] if isinstance(weights, Tensor) else list(weights)
    if not 0 <= residual <= 1:
        raise ValueError(f"residual must be between 0 and 1, got {residual}")
    shapes = [tuple(layer.shape) for layer in layers]
    square = shapes and all(len(shape) == 4 and shape[-1] == shape[-2] and 0 not in shape for shape in shapes)
    if not square or len({(shape[0], shape[-1]) for shape in shapes}) != 1:
        raise ValueError(f"weights must be one (B, h, n, n) for each layer, of one B and one n, got {shapes}")
    flow = None
    for layer in layers:
        wide = _as_maps(layer)
        if not (wide >= 0).all():
            raise ValueError(f"weights must be at least 0, got {float(wide.min())}")
        mixed = (1 - residual) * wide.mean(dim=1)
        mixed = mixed + residual * torch.eye(mixed.shape[-1], dtype=mixed.dtype, device=mixed.device)
        total = mixed.sum(dim=-1, keepdim=True)
        mixed = mixed / torch.where(total > 0, total, 1.0)
        flow = mixed if flow is None else mixed @ flow
    assert flow is not None  # there is a layer
    return flow.to(layers[0].dtype)


def attention_agreement(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """How alike two maps are, query by query: two heads, two layers, two models, attention and a baseline.

    Each row is scaled to a distribution over the keys first, so that gates, saliency or a rollout can be compared
    with weights.

    Args:
        a, b: `(…, n_q, n_k)`, not negative, shapes that broadcast to each other.

    Returns:
        A dictionary of tensors `(…, n_q)`, each the same for `(b, a)`:

        - `overlap`: `Σ_j min(a_j, b_j)`, the share of the weight that both put on the same keys; 1 if alike, 0 if
          they share no key. It is 1 minus the total variation distance.
        - `divergence`: `H(m) - (H(a) + H(b)) / 2` with `m = (a + b) / 2`, the Jensen-Shannon divergence in nats; 0 if
          alike, `log 2` if they share no key.
        - `correlation`: Spearman's, of the ranks of the keys, ties counted half: whether they order the keys alike,
          whatever the weights. Keys that a mask takes from both count as ties, and raise it. NaN for a row that is
          constant: it orders nothing.

        A row of zeros is no distribution: it gets NaN in all three.

    Raises:
        ValueError: for weights that are not floating-point matrices, a negative or infinite one, or shapes that do not
            fit each other.

    Lin, Divergence Measures Based on the Shannon Entropy, 1991 (doi:10.1109/18.61115).
    """
    for name, weights in (("a", a), ("b", b)):
        wide = _as_maps(weights)
        if not (wide.isfinite() & (wide >= 0)).all():
            raise ValueError(
                f"{name} must be finite and at least 0, got {float(wide.min())} to {float(wide.max())}"
            )
    try:
        both = torch.broadcast_tensors(a.double(), b.double())
    except RuntimeError:
        raise ValueError(f"a and b must fit each other, got {tuple(a.shape)} and {tuple(b.shape)}") from None
    first, second = (weights / weights.sum(dim=-1, keepdim=True) for weights in both)  # 0 / 0 is NaN
    ranks = [_below(weights) for weights in both]
    centred = [rank - rank.mean(dim=-1, keepdim=True) for rank in ranks]
    spread = (centred[0].square().sum(dim=-1) * centred[1].square().sum(dim=-1)).sqrt()
    middle = attention_entropy((first + second) / 2)
    found = {
        "overlap": torch.minimum(first, second).sum(dim=-1),
        "divergence": (middle - (attention_entropy(first) + attention_entropy(second)) / 2).clamp_min(0),
        "correlation": (centred[0] * centred[1]).sum(dim=-1) / spread,  # of a constant row, 0 / 0
    }
    return {name: value.to(torch.promote_types(a.dtype, b.dtype)) for name, value in found.items()}


def tokens_over_image(values: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Lay what belongs to the cells of an image, such as the weights of one query, over its pixels.

    Pixel `(y, x)` takes the value of the cell that its middle lies in.

    Args:
        values: `(…, rows · columns)`, row by row.
        grid: `(rows, columns)`.
        size: `(H, W)` of the image.

    Returns:
        `(…, H, W)`.

    Raises:
        ValueError: for another number of values than cells, or a grid or a size that is not two numbers of at least 1.
    """
    for name, pair in (("grid", grid), ("size", size)):
        if len(pair) != 2 or min(pair) < 1:
            raise ValueError(f"{name} must be two numbers of at least 1, got {tuple(pair)}")
    rows, columns = grid
    if values.ndim < 1 or values.shape[-1] != rows * columns:
        raise ValueError(
            f"values must be (…, {rows} · {columns} = {rows * columns}), got {tuple(values.shape)}"
        )
    row, column = (
        torch.div(
            (2 * torch.arange(pixels, device=values.device) + 1) * cells, 2 * pixels, rounding_mode="floor"
        )
        for pixels, cells in zip(size, grid, strict=True)
    )
    return values[..., row[:, None] * columns + column]


def attention_on_mask(weights: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """How much of each map lies on a mask, such as the ink of the digit that is to be found.

    Args:
        weights: `(B, H, W)`, not negative; they need not add up to 1.
        masks: `(B, H, W)`, or `(…, B, H, W)` to hold the maps against several sets at once; True (or non-zero) where
            a map should look; neither empty nor full.

    Returns:
        A dictionary of tensors `(B,)`, or `(…, B)`:

        - `share`: the part of the map's mass that lies on the mask (a map of zeros has none to share: 0);
        - `chance`: the part of the area that the mask takes, which is the share of a uniform map;
        - `lift`: `share / chance`; 1 is chance;
        - `hit`: 1 where the largest weight lies on the mask, else 0 (the pointing game). Of several largest,
          the part that does, so that a uniform map scores `chance`;
        - `above`: how often a pixel on the mask has more weight than one beside it, a tie counted half. It does
          not depend on the map's scale, and 1/2 is chance.

    Raises:
        ValueError: for other shapes, a negative or infinite weight, or a mask that is empty or full.

    Zhang et al., Top-down Neural Attention by Excitation Backprop, 2018 (arXiv:1608.00507), for the pointing game.
    """
    if weights.ndim != 3 or weights.shape != masks.shape[-3:] or not weights.is_floating_point():
        raise ValueError(
            f"weights must be floating-point and (B, H, W), and masks of that shape, got {weights.dtype} "
            f"{tuple(weights.shape)} and {tuple(masks.shape)}"
        )
    maps, on = weights.detach().cpu().double().flatten(1), masks.cpu().flatten(-2).bool()
    if not (maps.isfinite() & (maps >= 0)).all():
        raise ValueError(
            f"weights must be finite and at least 0, got {float(maps.min())} to {float(maps.max())}"
        )
    pixels, inside = maps.shape[1], on.sum(dim=-1).double()
    unfit = ((inside == 0) | (inside == pixels)).flatten().nonzero().flatten().tolist()
    if unfit:
        count = int(inside.flatten()[unfit[0]])
        raise ValueError(
            f"each mask must hold 1 to {pixels - 1} of {pixels} pixels, number {unfit[0]} holds {count}"
        )

    mass = maps.sum(dim=1)
    share = (maps * on).sum(dim=-1) / torch.where(mass > 0, mass, 1.0)
    largest = maps == maps.amax(dim=1, keepdim=True)
    # Among the mask's own pixels each pair counts once, and each pixel half for itself: inside² / 2 in all.
    above = ((_below(maps) * on).sum(dim=-1) - inside**2 / 2) / (inside * (pixels - inside))
    chance = inside / pixels
    found = {
        "share": share,
        "chance": chance,
        "lift": share / chance,
        "hit": (largest & on).sum(dim=-1) / largest.sum(dim=1).double(),
        "above": above,
    }
    dtype = weights.dtype if weights.dtype == torch.float64 else torch.float32
    return {name: value.to(weights.device, dtype) for name, value in found.items()}


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


def _below(values: Tensor) -> Tensor:
    """For each value, how many of its row are less; itself and others like it count half."""
    values = values.contiguous()
    ordered = values.sort(dim=-1)[0]
    less, not_more = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (less + not_more).double() / 2
