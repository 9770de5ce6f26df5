"""Positional encodings: what tells attention, which is blind to order, where each token stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PositionalEncoding"]


class PositionalEncoding(nn.Module):
    """Adds a fixed pattern of sines and cosines to the tokens, another one for every position.

    `pe[p, 2i] = sin(p / 10000^(2i / d_model))`, `pe[p, 2i + 1] = cos(p / 10000^(2i / d_model))`.

    The table is computed in float64 and kept in float32 (in float64 after `.double()`), also after `.half()`;
    the sum is cast to the dtype of the tokens. In a `state_dict` the table is `pe`, `(1, max_len, d_model)`.
    One that is loaded is checked for its width and left aside: the module keeps its own and its `max_len`.

    Args:
        d_model: width of the tokens, odd or even.
        max_len: the longest sequence.

    Raises:
        ValueError: if `d_model` or `max_len` is below 1.

    Vaswani et al., Attention Is All You Need, 2017 (arXiv:1706.03762), section 3.5.
    """

    pe: Tensor

    def __init__(self, d_model: int, max_len: int = 5000) -> None:
        super().__init__()
        if d_model < 1 or max_len < 1:
            raise ValueError(f"d_model and max_len must be at least 1, got {d_model} and {max_len}")
        self.d_model = d_model
        self.max_len = max_len
        self.register_buffer("pe", self._table(torch.float32, torch.get_default_device()))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x + pe[:n]`, in the dtype of `x`.

        Args:
            x: `(B, n, d_model)`.

        Raises:
            ValueError: for another rank or width, or a sequence longer than `max_len`.
        """
        if x.ndim != 3 or x.shape[-1] != self.d_model:
            raise ValueError(f"x must have the shape (B, n, d_model = {self.d_model}), got {tuple(x.shape)}")
        if x.shape[1] > self.max_len:
            raise ValueError(
                f"a sequence of {x.shape[1]} positions is longer than max_len = {self.max_len}: "
                f"make PositionalEncoding({self.d_model}, max_len={x.shape[1]}) or longer"
            )
        return (x + self.pe[:, : x.shape[1]]).to(x.dtype)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, max_len={self.max_len}"

    def _table(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        # Angles grow to max_len radians, where float32 is good to 4e-4 only. Some devices have no float64.
        position = torch.arange(self.max_len, dtype=torch.float64, device="cpu")[:, None]
        exponent = torch.arange(0, self.d_model, 2, dtype=torch.float64, device="cpu") / self.d_model
        angle = position * 10000.0**-exponent
        table = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)  # sine, cosine, sine, cosine, …
        return table[None, :, : self.d_model].to(dtype).to(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PositionalEncoding:
        # `.half()` rounds every buffer, and `.to_empty()` leaves it unset: make the table anew.
        super()._apply(fn, recurse)
        dtype = torch.float64 if self.pe.dtype == torch.float64 else torch.float32
        self.pe = self._table(dtype, self.pe.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        key = prefix + "pe"
        if key in state_dict:
            incoming = state_dict[key]
            if incoming.ndim == 0 or incoming.shape[-1] != self.d_model:
                error_msgs: list[str] = args[-1]
                error_msgs.append(
                    f"{key} has the shape {tuple(incoming.shape)}, its width must be d_model = {self.d_model}"
                )
            # A model on the meta device that is given its tensors (assign=True) is to get this one too.
            own = self._table(torch.float32, incoming.device) if self.pe.is_meta else self.pe
            state_dict = {**state_dict, key: own}
        super()._load_from_state_dict(state_dict, prefix, *args)
