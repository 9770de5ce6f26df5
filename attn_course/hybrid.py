"""A convolutional network whose feature map is read as tokens by a transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attn_course.cnn import CBAM, SelfAttention2D
from attn_course.transformer import TransformerBlock

__all__ = ["HybridAttentionModel", "create_hybrid_model", "transformer_cnn_hybrid"]


class HybridAttentionModel(nn.Module):
    """Convolutions with attention make a feature map; its 8 × 8 cells are the tokens of a transformer.

    image → convolutions with CBAM and SelfAttention2D → 8 × 8 cells → + positions → 3 transformer blocks
    → mean over the tokens → one linear layer.

    Args:
        input_shape: `(C, H, W)` of one image; `H` and `W` of at least 4.
        num_classes: number of logits.
        positions: a learned vector for each cell. Without them the transformer cannot tell the cells apart by
            their place: shuffled tokens give the same logits. A complete `state_dict` without positions loads
            as zeros, so that a model trained without them gives the results it gave.

    Raises:
        ValueError: for an `input_shape` that is not three numbers, or numbers that are too small.
    """

    embed_dim = 256
    grid = 8

    def __init__(
        self, input_shape: tuple[int, int, int], num_classes: int, *, positions: bool = True
    ) -> None:
        super().__init__()
        if len(input_shape) != 3 or input_shape[0] < 1 or min(input_shape[1:]) < 4:
            raise ValueError(
                f"input_shape must be (C, H, W) with C ≥ 1 and H, W ≥ 4 (two poolings halve them), "
                f"got {tuple(input_shape)}"
            )
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.in_channels = input_shape[0]
        self.cnn_backbone = nn.Sequential(
            nn.Conv2d(self.in_channels, 64, 3, padding=1),
            nn.ReLU(),
            CBAM(64),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            CBAM(128),
            nn.MaxPool2d(2),
            nn.Conv2d(128, self.embed_dim, 3, padding=1),
            nn.ReLU(),
            SelfAttention2D(self.embed_dim),
        )
        self.flatten = nn.AdaptiveAvgPool2d(self.grid)
        self.transformer = nn.Sequential(*[TransformerBlock(self.embed_dim, 8, 1024) for _ in range(3)])
        self.classifier = nn.Linear(self.embed_dim, num_classes)
        self.positions = nn.Parameter(torch.empty(1, self.grid**2, self.embed_dim)) if positions else None
        if self.positions is not None:
            nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor, *, need_weights: bool = False) -> Any:
        """Return the logits `(B, num_classes)` of images `(B, C, H, W)`, `H` and `W` of at least 4.

        With `need_weights=True` return `(logits, weights)`: a dictionary of what `cbam1`, `cbam2` and
        `self_attention` return as weights, and under `blocks` a list of the transformer's, `(B, h, 64, 64)` each.

        Raises:
            ValueError: for another rank or number of channels, or an image that is too small.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels or x.shape[2] < 4 or x.shape[3] < 4:
            raise ValueError(
                f"x must have the shape (B, C = {self.in_channels}, H ≥ 4, W ≥ 4), got {tuple(x.shape)}"
            )
        weights: dict[str, Any] = {}
        if need_weights:
            names = iter(("cbam1", "cbam2", "self_attention"))
            for layer in self.cnn_backbone:
                if isinstance(layer, (CBAM, SelfAttention2D)):
                    x, weights[next(names)] = layer(x, need_weights=True)
                else:
                    x = layer(x)
        else:
            x = self.cnn_backbone(x)
        x = self.flatten(x)
        x = x.flatten(2).transpose(1, 2)  # (B, 256, 8, 8) → (B, 64, 256), row by row
        if self.positions is not None:
            x = x + self.positions
        maps = []
        for block in self.transformer:
            x, block_weights = block(x, need_weights=need_weights)
            maps.append(block_weights)
        logits = self.classifier(x.mean(dim=1))
        return (logits, {**weights, "blocks": maps}) if need_weights else logits

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.positions is not None and prefix + "positions" not in state_dict:
            others = {prefix + name for name in self.state_dict() if name != "positions"}
            if others <= state_dict.keys():
                like = state_dict[prefix + "classifier.weight"]
                zeros = torch.zeros(self.positions.shape, dtype=like.dtype, device=like.device)
                state_dict = {**state_dict, prefix + "positions": zeros}
        super()._load_from_state_dict(state_dict, prefix, *args)


def create_hybrid_model(
    input_shape: tuple[int, int, int], num_classes: int, *, positions: bool = True
) -> HybridAttentionModel:
    """Make a `HybridAttentionModel`."""
    return HybridAttentionModel(input_shape, num_classes, positions=positions)


transformer_cnn_hybrid = create_hybrid_model
