"""A convolutional network whose feature map is read as tokens by a transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attn_course.cnn import CBAM, SelfAttention2D
from attn_course.transformer import TransformerBlock

__all__ = ["HybridAttentionModel", "create_hybrid_model", "transformer_cnn_hybrid"]


class HybridAttentionModel(nn.Module):
    """Convolutions with attention make a feature map; its cells are the tokens of a transformer.

    image → convolutions with CBAM and SelfAttention2D → `grid` of cells → + positions → transformer blocks
    → mean over the tokens → one linear layer.

    Args:
        input_shape: `(C, H, W)` of one image; `H` and `W` of at least 4.
        num_classes: number of logits.
        positions: a learned vector for each cell. Without them the transformer cannot tell the cells apart by
            their place: shuffled tokens give the same logits. A complete `state_dict` without positions loads
            as zeros, so that a model trained without them gives the results it gave.
        width: of a token, `d_model`; the convolutions have `width / 4`, `width / 2` and `width` channels, the
            feed-forward networks `4·width` hidden units.
        depth: number of transformer blocks.
        num_heads: heads of each block.
        grid: `(rows, columns)` of cells; one number for as many of both.
        dropout: in the transformer blocks, while training.
        norm: batch normalisation after each convolution, which the document's model lacks and with which it trains in
            far fewer steps. For inference it can be folded into the convolutions.

    Raises:
        ValueError: for an `input_shape` that is not three numbers, numbers that are too small, or a `width` that
            4 or `num_heads` does not divide.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        positions: bool = True,
        width: int = 256,
        depth: int = 3,
        num_heads: int = 8,
        grid: int | tuple[int, int] = 8,
        dropout: float = 0.1,
        norm: bool = False,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3 or input_shape[0] < 1 or min(input_shape[1:]) < 4:
            raise ValueError(
                f"input_shape must be (C, H, W) with C ≥ 1 and H, W ≥ 4 (two poolings halve them), "
                f"got {tuple(input_shape)}"
            )
        for name, value in (("num_classes", num_classes), ("depth", depth), ("num_heads", num_heads)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if width < 4 or width % 4 or width % num_heads:
            raise ValueError(
                f"4 (for the convolutions) and num_heads must divide width, got width = {width} and "
                f"num_heads = {num_heads}"
            )
        cells = (grid, grid) if isinstance(grid, int) else tuple(grid)
        if len(cells) != 2 or min(cells) < 1:
            raise ValueError(f"grid must be (rows, columns), both at least 1, or one number, got {grid!r}")
        self.in_channels = input_shape[0]
        self.embed_dim = width
        self.grid = cells
        stages = (width // 4, width // 2, width)
        layers: list[nn.Module] = []
        for before, channels in zip((self.in_channels, *stages[:2]), stages, strict=True):
            layers += [nn.Conv2d(before, channels, 3, padding=1)]
            layers += [nn.BatchNorm2d(channels)] if norm else []
            layers += [nn.ReLU()]
            layers += [SelfAttention2D(width)] if channels == width else [CBAM(channels), nn.MaxPool2d(2)]
        self.cnn_backbone = nn.Sequential(*layers)
        self.flatten = nn.AdaptiveAvgPool2d(cells)
        blocks = [TransformerBlock(width, num_heads, 4 * width, dropout) for _ in range(depth)]
        self.transformer = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width, num_classes)
        places = cells[0] * cells[1]
        self.positions = nn.Parameter(torch.empty(1, places, width)) if positions else None
        if self.positions is not None:
            nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor, *, need_weights: bool = False) -> Any:
        """Return the logits `(B, num_classes)` of images `(B, C, H, W)`, `H` and `W` of at least 4.

        With `need_weights=True` return `(logits, weights)`: a dictionary of what `cbam1`, `cbam2` and
        `self_attention` return as weights, and under `blocks` a list of the transformer's, `(B, h, n, n)` each, with
        `n = rows · columns`.

        Raises:
            ValueError: for another rank or number of channels, or an image that is too small.
        """
        x, weights = self.tokens(x, need_weights=True) if need_weights else (self.tokens(x), None)
        logits = self.classifier(x.mean(dim=1))
        return (logits, weights) if need_weights else logits

    def tokens(self, x: Tensor, *, need_weights: bool = False) -> Any:
        """Return what the transformer makes of the cells, row by row: `(B, rows · columns, width)`.

        For answers that belong to a place, one for each token. Weights and errors as in `forward`.
        """
        x, weights = self.feature_map(x, need_weights=True) if need_weights else (self.feature_map(x), {})
        x = self.flatten(x)
        x = x.flatten(2).transpose(1, 2)  # (B, width, rows, columns) → (B, n, width), row by row
        if self.positions is not None:
            x = x + self.positions
        weights["blocks"] = []
        for block in self.transformer:
            x, block_weights = block(x, need_weights=need_weights)
            weights["blocks"].append(block_weights)
        return (x, weights) if need_weights else x

    def feature_map(self, x: Tensor, *, need_weights: bool = False) -> Any:
        """Return what the convolutions make of images: `(B, width, H // 4, W // 4)`.

        Weights (those of `cbam1`, `cbam2` and `self_attention`) and errors as in `forward`.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels or x.shape[2] < 4 or x.shape[3] < 4:
            raise ValueError(
                f"x must have the shape (B, C = {self.in_channels}, H ≥ 4, W ≥ 4), got {tuple(x.shape)}"
            )
        if not need_weights:
            return self.cnn_backbone(x)
        weights: dict[str, Any] = {}
        names = iter(("cbam1", "cbam2", "self_attention"))
        for layer in self.cnn_backbone:
            if isinstance(layer, (CBAM, SelfAttention2D)):
                x, weights[next(names)] = layer(x, need_weights=True)
            else:
                x = layer(x)
        return x, weights

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.positions is not None and prefix + "positions" not in state_dict:
            others = {prefix + name for name in self.state_dict() if name != "positions"}
            if others <= state_dict.keys():
                like = state_dict[prefix + "classifier.weight"]
                zeros = torch.zeros(self.positions.shape, dtype=like.dtype, device=like.device)
                state_dict = {**state_dict, prefix + "positions": zeros}
        super()._load_from_state_dict(state_dict, prefix, *args)


def create_hybrid_model(
    input_shape: tuple[int, int, int], num_classes: int, **options: Any
) -> HybridAttentionModel:
    """Make a `HybridAttentionModel`, which says what the options are."""
    return HybridAttentionModel(input_shape, num_classes, **options)


transformer_cnn_hybrid = create_hybrid_model
