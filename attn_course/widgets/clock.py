"""The position clock of chapter 2: hands that turn at different rates, and what a score makes of an offset."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..positional import alibi_slopes, apply_rotary, sinusoidal_encoding
from .figure import Figure, Table

LONGEST = 96
WIDEST = 64


class PositionClock(Figure):
    """Width, position and offset to move, for sinusoidal, rotary and ALiBi positions.

    The query and the key are the same word, so that every change of the score comes from the positions alone.

    Args:
        seed: of the word, a vector of normal numbers.
        settings: where the controls begin: ``kind``, ``width``, ``position``, ``offset``, ``head``, ``word``.

    Raises:
        ValueError: there is no such control.
    """

    name = "clock"
    title = "Position clock: what a distance does to a score"

    def __init__(self, seed: int = 0, **settings: Any) -> None:
        word = torch.randn(WIDEST, generator=torch.Generator().manual_seed(seed))
        begin = {"kind": "sinusoidal", "width": 16, "position": 0, "offset": 5, "head": 1, "word": False}
        super().__init__({"word": word.tolist(), "heads": 8}, begin)
        self._settings = self._checked(settings)

    def text(self) -> str:
        return (
            "Each pair of channels is a clock hand; the first turns fastest. One hand shows the query's position, "
            "one the key's. Below, the score of the two against the distance between them: it falls and comes back for "
            "sinusoidal and rotary positions, and falls on a straight line for ALiBi."
        )

    def tables(self, **settings: Any) -> list[Table]:
        now = self._checked(settings)
        width, position, offset = now["width"], now["position"], now["offset"]
        slopes = alibi_slopes(self.data["heads"]).double()
        rates = [10000 ** (-2 * i / width) for i in range(width // 2)]
        table = sinusoidal_encoding(position + LONGEST + 1, width).double()
        cosines = table[:, 1::2]
        hands = [
            [i, rate, 2 * math.pi / rate, cosines[position, i].item(), cosines[position + offset, i].item()]
            for i, rate in enumerate(rates)
        ]
        biases = [[i + 1, slope, -slope * offset] for i, slope in enumerate(slopes.tolist())]
        curve, first = (self._curve({**now, "position": at}, table, slopes) for at in (position, 0))
        return [
            {
                "name": "Now",
                "columns": ["query at", "key at", "score"],
                "rows": [[position, position + offset, curve[offset]]],
            },
            {"name": "Slopes", "columns": ["head", "slope", "bias at this offset"], "rows": biases}
            if now["kind"] == "ALiBi"
            else {
                "name": "Hands",
                "columns": [
                    "pair",
                    "radians a step",
                    "steps a turn",
                    "cosine at the query",
                    "cosine at the key",
                ],
                "rows": hands,
            },
            {
                "name": "Score against offset",
                "columns": ["offset", "score", "score, query at 0"],
                "rows": [list(row) for row in zip(range(LONGEST + 1), curve, first, strict=True)],
            },
        ]

    def _curve(self, now: dict[str, Any], table: torch.Tensor, slopes: torch.Tensor) -> list[float]:
        width, position = now["width"], now["position"]
        word = torch.tensor(self.data["word"][:width], dtype=torch.float64) * bool(now["word"])
        scale = math.sqrt(width)
        offsets = torch.arange(LONGEST + 1)
        if now["kind"] == "sinusoidal":
            known = table + word
            return (known[position : position + LONGEST + 1] @ known[position] / scale).tolist()
        if now["kind"] == "ALiBi":
            return (word @ word / scale - slopes[now["head"] - 1] * offsets).tolist()
        hand = word if now["word"] else torch.tensor([1.0, 0.0] * (width // 2), dtype=torch.float64)
        turned = apply_rotary(hand.expand(LONGEST + 1, -1), position + offsets)
        return (turned @ turned[0] / scale).tolist()
