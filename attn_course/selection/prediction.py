"""How long a layer will take on a machine: the roofline's terms, corrected by what was measured there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from attn_course import machine as this_machine
from attn_course.benchmark import machines
from attn_course.complexity import Hardware
from attn_course.selection.candidates import Price

__all__ = ["Machine", "Row", "machine_of"]

ASSUMED = Hardware("assumed: no machine has been measured", 1e11, 2e10)

# Benchmark cases that are a candidate as it stands, by mechanism and note.
_KINDS = {
    ("multi-head-attention", "without weights"): "Transformer Self-Attention",
    ("self-attention-2d", ""): "CNN Self-Attention",
    ("cbam", ""): "CNN Spatial + Channel Attention",
    ("spatial-attention", ""): "CNN Spatial Attention",
    ("channel-attention", ""): "CNN Channel Attention",
    ("squeeze-and-excitation", ""): "Squeeze-and-Excitation",
    ("efficient-channel-attention", ""): "Efficient Channel Attention",
    ("hybrid", ""): "Hybrid Attention",
    ("attention-cnn", ""): "CNN with Attention",
}
_NEAREST = 3


@dataclass(frozen=True)
class Row:
    """A measured time: of which kind of layer, at which price, and where it is written."""

    kind: str
    mode: str
    flops: int
    bytes_moved: int
    seconds: float
    file: str
    name: str


@dataclass(frozen=True)
class Machine:
    """A machine's ceilings, and what was measured on it.

    A layer is predicted to take

    `(flops / peak_flops + bytes_moved / bandwidth) · c`

    where `c` is what the nearest three measured layers of its kind and mode (in FLOPs and bytes, by their logarithms)
    took over the same formula: their geometric mean, weighted by the inverse square of the distance. Where its kind was
    never measured, `c` is the median of all rows of that mode; without any row it is 1.
    """

    name: str
    hardware: Hardware
    rows: tuple[Row, ...] = ()

    def seconds(
        self, kind: str, price: Price, *, training: bool = False
    ) -> tuple[float, list[dict[str, str]]]:
        """Predicted seconds of one call, and the rows that they rest on (none: the cost model alone)."""
        mode = "training" if training else "forward"
        plain = self._plain(price.flops, price.bytes_moved)
        fitting = [row for row in self.rows if row.mode == mode]
        near = sorted((_distance(price, row), i, row) for i, row in enumerate(fitting) if row.kind == kind)
        if not near:
            factors = [self._factor(row) for row in fitting]
            return plain * (median(factors) if factors else 1.0), []
        near = near[:_NEAREST]
        shares = [1 / (distance**2 + 1e-6) for distance, _, _ in near]
        logs = [share * math.log(self._factor(row)) for share, (_, _, row) in zip(shares, near, strict=True)]
        evidence = [{"file": row.file, "row": row.name} for _, _, row in near]
        return plain * math.exp(sum(logs) / sum(shares)), evidence

    def _plain(self, flops: int, bytes_moved: int) -> float:
        return flops / self.hardware.peak_flops + bytes_moved / self.hardware.bandwidth

    def _factor(self, row: Row) -> float:
        return row.seconds / self._plain(row.flops, row.bytes_moved)


def _distance(price: Price, row: Row) -> float:
    return math.hypot(
        math.log((price.flops + 1) / (row.flops + 1)), math.log(price.bytes_moved / row.bytes_moved)
    )


def machine_of(machine: str | Hardware | None = None, *, folder: Path | None = None) -> Machine:
    """The machine that a question means.

    Args:
        machine: the stem of a file of `results/`; a `complexity.Hardware`, for which the cost model alone speaks; None
            for the machine that this runs on if it has been measured, else the first that has.
        folder: `results/` unless given.

    Raises:
        ValueError: for a name that no file has; the message lists the known ones.
    """
    if isinstance(machine, Hardware):
        return Machine(machine.name, machine)
    known = _measured(folder or this_machine.results_folder())
    if machine is None:
        here = this_machine.slug(this_machine.default_device())
        return known.get(here) or next(iter(known.values()), Machine(ASSUMED.name, ASSUMED))
    if machine not in known:
        names = ", ".join(known) or "none (make one with `make bench` or `make scenarios`)"
        raise ValueError(f"unknown machine {machine!r}; known: {names}")
    return known[machine]


@cache
def _measured(folder: Path) -> dict[str, Machine]:
    """Every machine with a benchmark or with a finished run of the scenarios."""
    found: dict[str, Machine] = {}
    records = {
        path.stem: json.loads(path.read_text("utf-8")) for path in (folder / "scenarios").glob("*.json")
    }
    records = {stem: record for stem, record in records.items() if record["finished"]}
    benchmarks = machines(folder)
    for stem in sorted({*benchmarks, *records}):
        rows: list[Row] = []
        hardware = None
        if stem in benchmarks:
            hardware = hardware_of(stem, benchmarks[stem]["ceilings"])
            rows += benchmark_rows(f"{stem}.json", benchmarks[stem]["rows"])
        if stem in records:
            record = records[stem]
            hardware = hardware or hardware_of(stem, record["ceilings"])
            rows += calibration_rows(f"scenarios/{stem}.json", record["calibration"])
        assert hardware is not None  # one of the two files is there
        found[stem] = Machine(stem, hardware, tuple(rows))
    return found


def hardware_of(name: str, ceilings: dict[str, Any]) -> Hardware:
    """Ceilings of a record, as the cost model takes them."""
    return Hardware(name, ceilings["matrix_product"]["flops_per_s"], ceilings["copy"]["bytes_per_s"])


def benchmark_rows(file: str, rows: Iterable[dict[str, Any]]) -> list[Row]:
    """The rows of a benchmark that measured a candidate as it stands, in float32, with the usual allocator."""
    return [
        Row(
            _KINDS[row["mechanism"], row["note"]], row["mode"], row["predicted"]["flops"],
            row["predicted"]["bytes_moved"], row["peers"][row["ours"]]["median_s"], file, row["case"],
        )
        for row in rows
        if row["status"] == "measured"
        and (row["mechanism"], row["note"]) in _KINDS
        and (row["dtype"], row["allocator"]) == ("float32", "default")
    ]  # fmt: skip


def calibration_rows(file: str, rows: Iterable[dict[str, Any]]) -> list[Row]:
    """The rows by which a run of the scenarios learnt the machine before it predicted."""
    return [
        Row(row["kind"], row["mode"], row["flops"], row["bytes_moved"], row["median_s"], file, row["name"])
        for row in rows
    ]
