"""The cost explorer of chapters 4 and 5: every mechanism over its sizes, and the roofline of every measured machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product
from statistics import median
from typing import Any

from ..benchmark import machines as recorded_machines
from ..complexity import _MECHANISMS as COUNTS
from ..complexity import Cost, Hardware
from ..selection.candidates import WINDOW
from ..selection.prediction import ASSUMED, hardware_of
from .figure import Figure, Table

LENGTHS = tuple(2**k + half * 2 ** (k - 1) for k in range(4, 16) for half in (0, 1)) + (2**16,)
SIDES = (8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
OPTIONS: dict[str, tuple[Any, ...]] = {
    "view": ("costs", "roofline"),
    "family": ("tokens", "maps"),
    "quantity": ("flops", "elementwise", "parameters", "peak", "moved", "intensity", "time"),
    "training": (False, True),
    "length": LENGTHS,
    "side": SIDES,
    "width": (64, 256, 512, 1024),
    "channels": (64, 128, 256),
    "heads": (1, 8),
    "sequences": (1, 8),
    "images": (1, 32),
}
"""Where each control may stand. A length or a side is one of a grid; lines are drawn straight between its points."""

NEEDS = {"tokens": ("width", "heads", "sequences"), "maps": ("channels", "images")}
BATCH = {"tokens": "sequences", "maps": "images"}
SIZE = {"tokens": "length", "maps": "side"}
UNITS = {
    "flops": "FLOPs", "elementwise": "elementwise, forward", "parameters": "parameters", "peak": "peak, MiB",
    "moved": "moved, MiB", "intensity": "FLOPs per byte", "time": "least time, ms",
}  # fmt: skip
STORED = (
    "flops",
    "flops training",
    "elementwise",
    "parameters",
    "moved",
    "moved training",
    "peak",
    "peak training",
)
MIB = 2**20
DIGITS = 15  # that stored numbers keep: counts are whole


WINDOWED = f"Window, {WINDOW} on each side, no projections"


@dataclass(frozen=True)
class Line:
    """One line of the figure: a mechanism of the cost model, or a part of one.

    Attributes:
        name: as the legend has it.
        family: what its size is, `"tokens"` or `"maps"`.
        mechanism: its name in the cost model.
        sizes: size and controls -> the cost model's sizes.
        needs: the controls that its cost depends on.
        part: the steps that count; all of them unless given.
    """

    name: str
    family: str
    mechanism: str
    sizes: Callable[..., dict[str, Any]]
    needs: tuple[str, ...] = ()
    part: Callable[[str], bool] | None = None

    def cost(self, size: int, **controls: Any) -> Cost:
        batch = controls.pop(BATCH[self.family])
        price = COUNTS[self.mechanism](**self.sizes(size, batch=batch, **controls))
        if self.part is None:
            return price
        inside = self.part
        return replace(
            price,
            terms={step: work for step, work in price.terms.items() if inside(step)},
            elementwise_terms={step: work for step, work in price.elementwise_terms.items() if inside(step)},
            moved_terms={step: moved for step, moved in price.moved_terms.items() if inside(step)},
            parameters=price.parameters if inside("projections") else 0,
            peak_bytes=None,
            peak_bytes_training=None,
            training_flops=-1,  # three times, as the weights are kept
            done_flops=-1,
        )


def _lines() -> Iterator[Line]:
    def attention(n: int, width: int, heads: int, batch: int, **more: Any) -> dict[str, Any]:
        return {"batch": batch, "n_q": n, "d_model": width, "num_heads": heads, **more}

    def fused(n: int, **controls: Any) -> dict[str, Any]:
        return attention(n, **controls, fused=True)

    def window(n: int, width: int, heads: int, batch: int) -> dict[str, Any]:
        return {"batch": batch, "num_heads": heads, "n": n, "d_k": width // heads, "window": WINDOW}

    def block(n: int, width: int, heads: int, batch: int) -> dict[str, Any]:
        sizes = {"batch": batch, "n": n, "d_model": width, "num_heads": heads}
        return {**sizes, "d_ff": 4 * width, "fused": True}

    def table(n: int, width: int, batch: int, **_: Any) -> dict[str, Any]:
        return {"batch": batch, "n": n, "d_model": width}

    def rotary(n: int, heads: int, **controls: Any) -> dict[str, Any]:
        return {**table(n, **controls), "num_heads": heads}

    def alibi(n: int, heads: int, batch: int, **_: Any) -> dict[str, Any]:
        return {"batch": batch, "n": n, "num_heads": heads}

    def gate(side: int, channels: int, batch: int) -> dict[str, Any]:
        return {"batch": batch, "channels": channels, "height": side, "width": side}

    def convolution(side: int, channels: int, batch: int) -> dict[str, Any]:
        sizes = {
            "batch": batch,
            "in_channels": channels,
            "out_channels": channels,
            "height": side,
            "width": side,
        }
        return {**sizes, "kernel_size": 3}

    def network(side: int, batch: int, **_: Any) -> dict[str, Any]:
        return {"batch": batch, "height": side, "width": side, "num_classes": 10}

    def hybrid(side: int, **controls: Any) -> dict[str, Any]:
        return {**network(side, **controls), "channels": 3}

    both = NEEDS["tokens"]
    projecting = {"projections", "biases"}
    yield Line("Attention, with weights", "tokens", "multi-head-attention", attention, both)
    yield Line(WINDOWED, "tokens", "sliding-window-attention", window, both)
    yield Line(
        "Part of attention: projections",
        "tokens",
        "multi-head-attention",
        attention,
        both,
        projecting.__contains__,
    )
    yield Line("Transformer block, fused", "tokens", "transformer-block", block, both)
    yield Line("Attention, fused", "tokens", "multi-head-attention", fused, both)
    yield Line("Part of attention: the n × n map", "tokens", "multi-head-attention", attention, both,
               lambda step: step not in projecting)  # fmt: skip
    yield Line("Sinusoidal positions", "tokens", "sinusoidal-encoding", table, ("width", "sequences"))
    yield Line("Learned positions", "tokens", "learned-encoding", table, ("width", "sequences"))
    yield Line("Rotary positions", "tokens", "rotary-embedding", rotary, both)
    yield Line("ALiBi bias", "tokens", "alibi-bias", alibi, ("heads", "sequences"))
    for name, mechanism in (
        ("SelfAttention2D", "self-attention-2d"),
        ("CBAM", "cbam"),
        ("Spatial attention", "spatial-attention"),
        ("Channel attention", "channel-attention"),
        ("Squeeze-and-excitation", "squeeze-and-excitation"),
    ):
        yield Line(name, "maps", mechanism, gate, NEEDS["maps"])
    yield Line("Convolution, 3 × 3", "maps", "convolution", convolution, NEEDS["maps"])
    yield Line("Efficient channel attention", "maps", "efficient-channel-attention", gate, NEEDS["maps"])
    yield Line("AttentionCNN, a whole network", "maps", "attention-cnn", network, ("images",))
    yield Line("Hybrid, a whole network", "maps", "hybrid", hybrid, ("images",))


LINES = {line.name: line for line in _lines()}
BEGIN = (
    "Attention, with weights", WINDOWED, "Part of attention: projections",
    "Part of attention: the n × n map", "SelfAttention2D", "CBAM", "Spatial attention", "Channel attention",
    "Convolution, 3 × 3",
)  # fmt: skip


class CostExplorer(Figure):
    """The cost model over sizes, with crossovers; and each machine's roofline, predicted and measured.

    Args:
        machines: name -> benchmark record; those of `results/` unless given. Without any, ceilings are assumed.
        settings: where the controls begin: those of `OPTIONS`, ``machine``, ``on`` (the names of the lines that are
            drawn) and ``row`` (the measured row that is pointed out, or an empty string).

    Raises:
        ValueError: there is no such control, or it cannot stand there.
    """

    name = "costs"
    title = "Cost explorer: which is cheapest, and from which size on?"

    def __init__(self, machines: Mapping[str, Mapping[str, Any]] | None = None, **settings: Any) -> None:
        records = recorded_machines() if machines is None else machines
        self.hardware = {name: hardware_of(name, record["ceilings"]) for name, record in records.items()}
        rows = {name: list(_rows(record["rows"])) for name, record in records.items()}
        if not records:
            self.hardware, rows = {ASSUMED.name: ASSUMED}, {ASSUMED.name: []}
        families = {
            family: {
                "sizes": list(OPTIONS[SIZE[family]]),
                "lines": [
                    {"name": line.name, "needs": list(line.needs), "costs": _costs_of(line)}
                    for line in LINES.values()
                    if line.family == family
                ],
            }
            for family in SIZE
        }
        data = {
            "options": {name: list(values) for name, values in OPTIONS.items()},
            "units": UNITS,
            "quantities": list(UNITS),  # in their order, which the keys of an object do not keep
            "families": families,
            "machines": {
                name: {
                    "peak": hardware.peak_flops,
                    "bandwidth": hardware.bandwidth,
                    "rows": rows[name],
                    "threads": records.get(name, {}).get("settings", {}).get("threads"),
                }
                for name, hardware in self.hardware.items()
            },
        }
        begin = {
            "view": "costs", "family": "tokens", "quantity": "flops", "training": False, "length": 512, "side": 56,
            "width": 512, "channels": 128, "heads": 8, "sequences": 1, "images": 1,
            "machine": next(iter(self.hardware)), "on": list(BEGIN), "row": "",
        }  # fmt: skip
        super().__init__(data, begin)
        self._settings = self._checked(settings)

    def text(self) -> str:
        return (
            "Each line is one mechanism of the cost model over the length of a sequence or the side of a map, both "
            "axes logarithmic; a ring marks where two lines cross. The other view is a machine's roofline: below the "
            "corner memory binds, above it arithmetic; dots are measured rows, rings the mechanisms at the chosen "
            "size, at best."
        )

    def _checked(self, settings: dict[str, Any]) -> dict[str, Any]:
        now = super()._checked(settings)
        for name, values in {**OPTIONS, "machine": tuple(self.hardware)}.items():
            if now[name] not in values or (name == "training") != isinstance(now[name], bool):
                raise ValueError(f"{name} must be one of {', '.join(map(str, values))}, got {now[name]!r}")
        unknown = [name for name in now["on"] if name not in LINES]
        if unknown:
            raise ValueError(f"no line {', '.join(map(repr, unknown))}; there are {', '.join(LINES)}")
        if now["row"] and now["row"] not in (row["case"] for row in self._measured(now)):
            now["row"] = ""
            if "row" in settings:
                raise ValueError(f"{now['machine']} has no such measured row: {settings['row']!r}")
        return now

    def tables(self, **settings: Any) -> list[Table]:
        now = self._checked(settings)
        lines = [line for line in LINES.values() if line.family == now["family"]]
        size = now[SIZE[now["family"]]]
        shown = [self._shown(line, size, now) for line in lines]
        at_cursor: Table = {
            "name": "At the chosen size",
            "columns": ["mechanism", *UNITS.values()],
            "rows": [[line.name, *values.values()] for line, values in zip(lines, shown, strict=True)],
        }
        if now["view"] == "costs":
            return [at_cursor, self._crossovers(lines, now), self._measured_here(now)]
        return [at_cursor, self._machine(now), self._bounds(now)]

    def _shown(self, line: Line, size: int, now: dict[str, Any]) -> dict[str, float | None]:
        """All quantities of a line at a size, in the units of the page."""
        price = line.cost(size, **{need: now[need] for need in NEEDS[line.family]})
        stored = dict(zip(STORED, _stored(price), strict=True))
        mode = " training" if now["training"] else ""
        flops, moved, peak = (stored[f"{name}{mode}"] for name in ("flops", "moved", "peak"))
        assert flops is not None and moved is not None
        return {
            "flops": flops,
            "elementwise": stored["elementwise"],
            "parameters": stored["parameters"],
            "peak": None if peak is None else peak / MIB,
            "moved": moved / MIB,
            "intensity": flops / moved,
            "time": price.roofline(self.hardware[now["machine"]], training=now["training"]).seconds * 1e3,
        }

    def _crossovers(self, lines: list[Line], now: dict[str, Any]) -> Table:
        sizes = OPTIONS[SIZE[now["family"]]]
        curves = {
            line.name: [self._shown(line, size, now)[now["quantity"]] for size in sizes]
            for line in lines
            if line.name in now["on"]
        }
        rows = [
            [f"{a} and {b}", *place]
            for a, b in combinations(curves, 2)
            for place in crossings(sizes, curves[a], curves[b])
        ]
        unit = UNITS[now["quantity"]]
        return {"name": "Crossovers, about", "columns": ["lines", SIZE[now["family"]], unit], "rows": rows}

    def _measured(self, now: dict[str, Any]) -> list[dict[str, Any]]:
        rows = self.data["machines"][now["machine"]]["rows"]
        return [row for row in rows if row["training"] == now["training"]]

    def _measured_here(self, now: dict[str, Any]) -> Table:
        """The measured rows that lie on a line at these settings."""
        rows = []
        for row in self._measured(now):
            line = LINES[row["line"]]
            if line.family != now["family"] or line.name not in now["on"] or not row["at"]:
                continue
            if all(row["at"][need] == now[need] for need in line.needs):
                peak = None if row["peak"] is None else row["peak"] / MIB
                rows.append([row["case"], row["at"]["size"], peak, row["seconds"] * 1e3])
        columns = ["row", SIZE[now["family"]], "peak, MiB", "time, ms"]
        return {"name": "Measured at these settings", "columns": columns, "rows": rows}

    def _machine(self, now: dict[str, Any]) -> Table:
        hardware = self.hardware[now["machine"]]
        times = [row[-1] for row in self._bounds(now)["rows"]]
        return {
            "name": "The machine",
            "columns": ["machine", "GFLOP/s", "GB/s", "corner, FLOPs per byte", "rows", "median measured / bound",
                        "below the bound"],
            "rows": [[hardware.name, hardware.peak_flops / 1e9, hardware.bandwidth / 1e9,
                      hardware.peak_flops / hardware.bandwidth, len(times), median(times) if times else None,
                      sum(ratio < 1 for ratio in times)]],
        }  # fmt: skip

    def _bounds(self, now: dict[str, Any]) -> Table:
        hardware = self.hardware[now["machine"]]
        rows = []
        for row in self._measured(now):
            work, moved = {"all": row["flops"]}, {"all": row["moved"]}
            price = Cost(row["case"], {}, terms=work, elementwise_terms={}, parameters=0, moved_terms=moved)
            bound, seconds = price.roofline(hardware).seconds, row["seconds"]
            reached = price.flops / seconds / 1e9
            rows.append([row["case"], price.intensity, reached, bound * 1e3, seconds * 1e3, seconds / bound])
        return {
            "name": "Predicted and measured",
            "columns": ["row", "FLOPs per byte", "GFLOP/s", "bound, ms", "measured, ms", "measured / bound"],
            "rows": rows,
        }


def crossings(
    sizes: tuple[int, ...], a: list[float | None], b: list[float | None]
) -> Iterator[tuple[float, float]]:
    """Where two lines cross that are straight between their points, on logarithmic axes: size and height.

    Lines that only part, having been one, do not cross.
    """
    before: tuple[int, float] | None = None  # the last place where they lay apart, and by how much
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        if not x or not y:
            before = None
            continue
        apart = math.log(x) - math.log(y)
        if abs(apart) < 1e-6:
            continue
        if before and apart * before[1] < 0:
            j = before[0]
            # Points between the two are common to both lines: they meet in the first.
            share = before[1] / (before[1] - apart) if i == j + 1 else 1.0
            k = j + 1
            start, end = a[j], a[k]
            assert start and end
            yield sizes[j] * (sizes[k] / sizes[j]) ** share, start * (end / start) ** share
        before = i, apart


def _kept(value: float | None) -> float | int | None:
    """A number as it is stored: `DIGITS` digits of it."""
    if value is None:
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() else short


def _stored(price: Cost) -> list[float | int | None]:
    """What is stored of a cost, in the order of `STORED`."""
    return [_kept(value) for value in (
        price.flops, price.training_flops, price.elementwise, price.parameters, price.bytes_moved,
        price.bytes_moved_training, price.peak_bytes, price.peak_bytes_training,
    )]  # fmt: skip


def _costs_of(line: Line) -> dict[str, list[Any]]:
    """The values of the controls that it needs, joined -> for each of `STORED` its numbers over the sizes, in one text.

    One number for all sizes is not repeated, and what is not modelled is None.
    """
    found = {}
    given = {name: OPTIONS[name][:1] for name in NEEDS[line.family]}
    for values in product(*({**given, **{need: OPTIONS[need] for need in line.needs}}.values())):
        controls = dict(zip(given, values, strict=True))
        columns = zip(*(_stored(line.cost(n, **controls)) for n in OPTIONS[SIZE[line.family]]), strict=True)
        key = ",".join(str(controls[need]) for need in line.needs)
        found[key] = [
            column[0] if len(set(column)) == 1 else " ".join(map(str, column)) for column in columns
        ]
    return found


def _rows(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The measured rows in float32, which is what the ceilings are of: our own code; and on which line each lies."""
    for row in rows:
        if row["status"] != "measured" or row["dtype"] != "float32":
            continue
        ours, counts = row["peers"][row["ours"]], row["predicted"]
        line, at = _place(row)
        usual = row["allocator"] == "default"
        yield {
            "case": _short(row),
            "training": row["mode"] == "training",
            "flops": counts["flops"],
            "moved": counts["bytes_moved"],
            "seconds": _kept(ours["median_s"]),
            "peak": ours["peak_bytes"],
            "line": line.name,
            "at": at if usual else None,
        }


def _short(row: dict[str, Any]) -> str:
    """A case's name with the book's letters, without its mode, which a control has."""
    sizes = row["sizes"]
    same = sizes.get("in_channels") == sizes.get("out_channels")
    unsaid = ("height", "width", "cached", "num_classes", "positions", *(("out_channels",) if same else ()))
    said = [f"{_LETTERS.get(name, name)} = {size}" for name, size in sizes.items() if name not in unsaid]
    if "height" in sizes:
        said.append(f"{sizes['height']} × {sizes['width']}")
    allocator = "" if row["allocator"] == "default" else row["allocator"]
    return ", ".join(filter(None, (row["mechanism"], row["note"], *said, allocator)))


_LETTERS = {
    "batch": "B",
    "channels": "C",
    "in_channels": "C",
    "num_heads": "h",
    "window": "w",
    "kernel_size": "k",
}


def _place(row: dict[str, Any]) -> tuple[Line, dict[str, int] | None]:
    """The line of a row's mechanism, and where on it the row lies; nowhere if a size is none of the line's."""
    sizes = dict(row["sizes"])
    if row["mechanism"] in ("multi-head-attention", "transformer-block"):
        sizes["fused"] = row["note"] != "with weights"
    heads = sizes.get("num_heads", 1)
    given = {
        "width": sizes.get("d_model") or heads * sizes.get("d_k", heads),
        "channels": sizes.get("channels") or sizes.get("in_channels", 1),
        "heads": heads,
        "sequences": sizes["batch"],
        "images": sizes["batch"],
    }
    size = sizes.get("n_q") or sizes.get("n") or sizes["height"]
    wanted = COUNTS[row["mechanism"]](**sizes).sizes
    for line in LINES.values():
        if line.mechanism == row["mechanism"] and not line.part:
            price = line.cost(size, **{need: given[need] for need in NEEDS[line.family]})
            if price.sizes == wanted:
                return line, {"size": size, **{need: given[need] for need in line.needs}}
            if price.sizes.get("fused") == wanted.get("fused"):
                return line, None
    raise ValueError(f"no line for the row {row['case']!r}")


__all__ = ["BEGIN", "LINES", "OPTIONS", "CostExplorer", "Hardware", "Line", "crossings"]
