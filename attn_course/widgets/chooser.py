"""The chooser of chapter 6: the selector as a form, answered in the page, with the rows that the answer rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import benchmark, complexity
from ..complexity import cnn, window
from ..selection import BUDGETS, TASKS, AttentionSelector, Candidate, Machine, machine_of, scenario_machines
from ..selection.candidates import CLASSES, WINDOW, candidates
from ..selection.prediction import _NEAREST
from .figure import Figure, Table

WHOLE = {
    "sequence_length": (1, 1_000_000),
    "d_model": (1, 65_536),
    "height": (1, 4_096),
    "columns": (1, 4_096),
    "channels": (1, 65_536),
    "frames": (1, 100_000),
    "batch": (1, 65_536),
    "memory_bytes": (1, 2**50),
    "reach": (0, 1_000_000),
}
"""The least and the most that each whole number of the form may be."""

REAL = {"latency_s": (1e-9, 1e6), "accuracy": (0.0, 1.0)}
EMPTY = ("reach", "latency_s", "accuracy")  # may be None: not asked for

QUESTIONS: dict[str, dict[str, Any]] = {
    "The document's photograph: 224 × 224, 256 channels": {},
    "DNA: 20,000 letters, what decides lies within 500": {
        "data_type": "sequential", "sequence_length": 20_000, "d_model": 256, "reach": 500, "memory_bytes": 2**30,
    },
    "Text that is written token by token": {
        "data_type": "sequential", "task_type": "generation", "sequence_length": 3_000, "d_model": 1_024, "batch": 8,
    },
    "Video: 30 frames of 112 × 112, what is where": {
        "data_type": "mixed", "task_type": "detection", "frames": 30, "height": 112, "columns": 112,
    },
}  # fmt: skip
"""Questions of the chapter, as settings of the form; what they do not name stands as at the beginning."""

# Which page of the book, and where on it, shows what a file of `results/` holds.
_SHOWN = {
    "experiments/cluttered-digits.json": ("chapter 3, the cluttered digits", "03_cnn", "fig-clutter"),
    "experiments/mirrored-strip.json": ("chapter 7, accuracy over the price", "07_hybrid", "fig-price-gain"),
    "experiments/far-token.json": ("chapter 6, the far token", "06_selection", "fig-far"),
    "scenarios/": ("chapter 6, the selector held against a clock", "06_selection", "is-the-selector-right"),
    "": ("chapter 5, every machine's benchmark", "05_benchmarks", "fig-machines"),
}


class Chooser(Figure):
    """`AttentionSelector` as a form: data, sizes, task and limits in; ranked candidates, prices and evidence out.

    Args:
        machines: whose times may be asked for; unless given, every one of `results/`, and the cost model alone with the
            ceilings of the first.
        settings: where the form begins: ``data_type``, ``task_type``, ``sequence_length``, ``d_model``, ``height``,
            ``columns``, ``channels``, ``frames``, ``batch``, ``training``, ``computational_budget``, ``memory_bytes``,
            ``latency_s``, ``reach``, ``accuracy``, ``machine``.

    Raises:
        ValueError: there is no such control, or it cannot stand there; the message names the range.
    """

    name = "chooser"
    title = "Chooser: which attention fits, and what it costs"

    def __init__(self, machines: Sequence[Machine] | None = None, **settings: Any) -> None:
        if machines is None:
            measured = sorted({*benchmark.machines(), *scenario_machines()})
            machines = [machine_of(name) for name in measured] or [machine_of()]
            first = machines[0].hardware
            alone = complexity.Hardware(f"{first.name}, cost model alone", first.peak_flops, first.bandwidth)
            machines = [*machines, Machine(alone.name, alone)]
        self.machines = {machine.name: machine for machine in machines}
        begin = {
            "data_type": "spatial", "task_type": "classification", "computational_budget": "high",
            "sequence_length": 512, "d_model": 512, "height": 224, "columns": 224, "channels": 256, "frames": 1,
            "batch": 1, "training": False, "memory_bytes": 2 * 2**30, "latency_s": None, "reach": None,
            "accuracy": None, "machine": machines[0].name,
        }  # fmt: skip
        super().__init__({**_data(machines), "begin": begin}, begin)
        self._settings = self._checked(settings)

    def text(self) -> str:
        return (
            "A form: the kind of data, its sizes, the task, and what there is of memory and time. Every mechanism gets "
            "its FLOPs, its memory and its predicted time, and is left out if it needs more than there is or reaches "
            "less than is asked for. What is left is ranked, and each prediction names the measured rows that it "
            "rests on."
        )

    def tables(self, **settings: Any) -> list[Table]:
        now = self._checked(settings)
        question = self.question(**settings)
        entries = AttentionSelector.consider(**question)
        try:
            best = AttentionSelector.recommend_attention_type(**question)[0]
            verdict, why = _written(best), best["reason"]
        except ValueError as error:  # nothing meets what is asked: the message says what would
            verdict, why = str(error), ""
        columns = ["candidate", "FLOPs", "peak bytes", "bytes needed", "seconds", "reach", "accuracy"]
        fields = ("type", "flops", "peak_bytes", "needs_bytes", "seconds", "reach", "accuracy")
        sides = [
            [[e[field] for field in fields] for e in entries if bool(e["out"]) is out]
            for out in (False, True)
        ]
        reasons = [
            [
                e["type"],
                _written(e),
                "yes" if e["fits"] else "no",
                e["out"] or (why if i == 0 else e["reason"]),
            ]
            for i, e in enumerate(entries)
        ]
        rows = [
            [e["type"], row["file"], row["row"], _shown(row["file"])["text"]]
            for e in entries
            for row in e["evidence"]
        ]
        return [
            {
                "name": "Answer",
                "columns": ["", "what", "by the times of"],
                "rows": [["first choice", verdict, now["machine"]]],
            },
            {"name": "Recommended, the most suitable first", "columns": columns, "rows": sides[0]},
            {"name": "Left out", "columns": columns, "rows": sides[1]},
            {"name": "Why", "columns": ["candidate", "in code", "fits", "why"], "rows": reasons},
            {
                "name": "Evidence",
                "columns": ["candidate", "file in results/", "row", "shown in"],
                "rows": rows,
            },
        ]

    def question(self, **settings: Any) -> dict[str, Any]:
        """The arguments of `AttentionSelector.recommend_attention_type` that the form stands for."""
        now = self._checked(settings)
        kind = now["data_type"]
        same = ("data_type", "task_type", "computational_budget", "batch", "training", "memory_bytes", "latency_s",
                "reach", "accuracy")  # fmt: skip
        asked = {name: now[name] for name in same} | {"machine": self.machines[now["machine"]]}
        if kind != "spatial":
            asked["sequence_length"] = now["sequence_length" if kind == "sequential" else "frames"]
        if kind != "sequential":
            asked["spatial_dims"] = (now["height"], now["columns"])
        if kind != "mixed":
            asked["width"] = now["d_model" if kind == "sequential" else "channels"]
        return asked

    def _checked(self, settings: dict[str, Any]) -> dict[str, Any]:
        now = super()._checked(settings)
        words: dict[str, list[Any]] = {
            "data_type": sorted({data for data, _ in TASKS}),
            "task_type": sorted({task for _, task in TASKS}),
            "computational_budget": list(BUDGETS),
            "machine": list(self.machines),
            "training": [False, True],
        }
        for name, value in now.items():
            if value is None and name in EMPTY:
                continue
            if name in words:
                if value not in words[name]:
                    raise ValueError(
                        f"{name} must be one of {', '.join(map(str, words[name]))}, got {value!r}"
                    )
                continue
            least, most = WHOLE.get(name) or REAL[name]
            whole = name in WHOLE
            right = isinstance(value, int) if whole else isinstance(value, int | float)
            if isinstance(value, bool) or not right or not least <= value <= most:
                kind = "a whole number" if whole else "a number"
                raise ValueError(f"{name} must be {kind} from {least:,} to {most:,}, got {value!r}")
        return now


def _written(entry: dict[str, Any]) -> str:
    """As one would write it: `MultiHeadAttention(num_heads=8)`."""
    options = ", ".join(f"{name}={value}" for name, value in entry["options"].items())
    return f"{entry['implementation']}({options})"


def _shown(file: str) -> dict[str, str]:
    """Where the book shows a file of `results/`."""
    start = next(start for start in _SHOWN if file.startswith(start))
    text, page, anchor = _SHOWN[start]
    return {"text": text, "page": page, "anchor": anchor}


# --- What the page gets: all that is not a size --------------------------------------------------------------


def _data(machines: Sequence[Machine]) -> dict[str, Any]:
    kinds = _kinds()
    tasks: dict[str, dict[str, Any]] = {}
    for (data, task), (order, remark) in TASKS.items():
        tasks.setdefault(data, {})[task] = {"places_first": order.startswith("places"), "remark": remark}
    sources = [kind[side][1] for group in kinds.values() for kind in group for side in ("near", "far")]
    files = {row.file for machine in machines for row in machine.rows} | {
        one["file"] for one in sources if one
    }
    return {
        "machines": [_machine(machine) for machine in machines],
        "kinds": kinds,
        "tasks": tasks,
        "budgets": BUDGETS,
        "questions": [[name, settings] for name, settings in QUESTIONS.items()],
        "limits": {name: list(limits) for name, limits in {**WHOLE, **REAL}.items()},
        "shown": {file: _shown(file) for file in sorted(files)},
        "constants": _constants(kinds),
    }


def _machine(machine: Machine) -> dict[str, Any]:
    """Ceilings, and the rows by kind and mode: FLOPs, bytes moved, seconds, file, row."""
    rows = [
        [row.kind, row.mode, row.flops, row.bytes_moved, row.seconds, row.file, row.name]
        for row in machine.rows
    ]
    hardware = machine.hardware
    return {
        "name": machine.name,
        "peak_flops": hardware.peak_flops,
        "bandwidth": hardware.bandwidth,
        "rows": rows,
    }


def _constants(kinds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    hybrid = {name: size.default for name, size in complexity.mechanisms()["hybrid"].parameters.items()}
    return {
        "window": WINDOW,
        "nearest": _NEAREST,
        "classes": CLASSES,
        "kernel_reach": max(kind["reach"] for kind in kinds["spatial"] if not kind["everything"]),
        "widths": list(cnn.BACKBONE),
        "hybrid": {
            "depth": hybrid["depth"],
            "heads": hybrid["num_heads"],
            "cells": hybrid["grid_height"] * hybrid["grid_width"],
        },
        "window_block": window.BLOCK,
        "window_rows": window.ROWS,
        "piece_bytes": cnn.PIECE_BYTES,
        "keep_bytes": cnn.KEEP_BYTES,
        "fuse_elements": cnn.FUSE_ELEMENTS,
    }


# Sizes that are found again in the candidates' words, where the page puts its own.
_MARKS = {"length": 7919, "height": 311, "width": 313, "channels": 64 * 52}
_PLACES = {
    "7,919": "{n}", "128": "{window}", "311 x 313": "{size}", "13 heads": "{few} heads", "serve 52": "serve {heads}",
}  # fmt: skip


def _kinds() -> dict[str, list[dict[str, Any]]]:
    """The candidates of each kind of question: names, words and accuracy, near and far."""
    questions = {
        "sequential": ("sequential", False, False),
        "generation": ("sequential", False, True),
        "generation, training": ("sequential", True, True),
        "spatial": ("spatial", False, False),
        "mixed": ("mixed", False, False),
    }
    found = {}
    for group, (data, training, generation) in questions.items():
        near, far = (
            candidates(data, **_MARKS, batch=1, training=training, generation=generation, reach=reach)
            for reach in (None, WINDOW)
        )
        found[group] = [_kind(*pair) for pair in zip(near, far, strict=True)]
    return found


def _kind(near: Candidate, far: Candidate) -> dict[str, Any]:
    text = near.text
    for mark, place in _PLACES.items():
        text = text.replace(mark, place)
    return {
        "type": near.type,
        "implementation": near.implementation,
        "kind": near.kind,
        "text": text,
        "reach": near.reach,
        "everything": near.everything,
        "near": [near.accuracy, near.accuracy_source],
        "far": [far.accuracy, far.accuracy_source],
    }
