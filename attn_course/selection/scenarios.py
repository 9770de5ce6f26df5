"""Held against measurement: questions to the selector, and how long everything that could be the answer takes."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from attn_course import machine as this_machine
from attn_course.benchmark import ceilings as measured_ceilings
from attn_course.benchmark import machines, measure, peak_bytes
from attn_course.selection.candidates import Candidate, candidates
from attn_course.selection.prediction import Machine, benchmark_rows, calibration_rows, hardware_of
from attn_course.selection.selector import AttentionSelector, choice_of

__all__ = [
    "SCENARIOS",
    "Scenario",
    "agreement",
    "comparisons",
    "load_scenarios",
    "run_scenarios",
    "scenario_machines",
]

_DEMANDS = ("computational_budget", "memory_bytes", "latency_s", "accuracy")  # what changes no candidate
SCHEMA = "attn-course/scenarios/1"
Record = dict[str, Any]

WITHIN, APART = 1.15, 1.2
"""A first choice counts as right up to 1.15 times the best time; a pair counts where its times differ by 1.2 times."""


@dataclass(frozen=True)
class Scenario:
    """A question to `AttentionSelector.recommend_attention_type`: its arguments, and a name that says them."""

    arguments: dict[str, Any] = field(hash=False)

    @property
    def name(self) -> str:
        """The arguments in one line."""
        said = (_said(key, value) for key, value in self.arguments.items())
        return ", ".join(part for part in said if part)


def _said(key: str, value: Any) -> str:
    if key == "data_type":
        return str(value)
    if key == "spatial_dims":
        return f"{value[0]} x {value[1]}"
    if key == "computational_budget":
        return ""  # all have the same
    if key == "training":
        return "training" if value else "inference"
    if key == "memory_bytes":
        return f"{value / 2**20:g} MiB"
    return f"{key.replace('_', ' ')} {value}"


def _scenarios() -> Iterator[Scenario]:
    def ask(data_type: str, **arguments: Any) -> Scenario:
        return Scenario({"data_type": data_type, "computational_budget": "high", **arguments})

    mib = 2**20
    # Text: short to long, near to far.
    for n, width, batch in ((200, 256, 4), (700, 512, 2), (1500, 256, 1), (3000, 512, 1), (6000, 256, 1)):
        for reach in (20, 150):
            for training in (False, True):
                yield ask(
                    "sequential", sequence_length=n, width=width, batch=batch, training=training, reach=reach
                )
    for n in (300, 2500):
        yield ask("sequential", sequence_length=n, width=512, reach=n - 1)
        yield ask("sequential", sequence_length=n, width=512, reach=40, accuracy=0.9)
    # Text that is written token by token.
    for n, width, batch in ((500, 512, 1), (3000, 512, 8), (6000, 1024, 2)):
        for reach in (100, n - 1):
            yield ask(
                "sequential", sequence_length=n, width=width, batch=batch, task_type="generation", reach=reach
            )
    # Maps: what looks at no other place, at its neighbours, at all; small to large.
    for side, channels, batch in ((10, 384, 16), (24, 96, 8), (40, 192, 2), (72, 48, 4)):
        for reach in (0, 3, side - 1):
            for training in (False, True):
                yield ask(
                    "spatial",
                    spatial_dims=(side, side),
                    width=channels,
                    batch=batch,
                    training=training,
                    reach=reach,
                )
    for dims, channels, batch in (((20, 30), 64, 32), ((50, 34), 160, 1)):
        for accuracy in (0.8, 0.9):
            for training in (False, True):
                yield ask(
                    "spatial", spatial_dims=dims, width=channels, batch=batch, training=training, reach=0,
                    accuracy=accuracy,
                )  # fmt: skip
        yield ask("spatial", spatial_dims=dims, width=channels, batch=batch, reach=dims[1], accuracy=0.5)
    # Little memory: the fastest may not fit.
    for side, channels, batch, memory in ((60, 128, 1, 24), (44, 64, 8, 96), (90, 32, 1, 64)):
        for training in (False, True):
            yield ask(
                "spatial", spatial_dims=(side, side), width=channels, batch=batch, training=training, reach=3,
                memory_bytes=(4 if training else 1) * memory * mib,
            )  # fmt: skip
    # Images and frames, by whole networks.
    for side, frames in ((28, 12), (56, 4), (104, 1)):
        for reach in (3, side - 1):
            for training in (False, True):
                yield ask(
                    "mixed", sequence_length=frames, spatial_dims=(side, side), training=training, reach=reach
                )


SCENARIOS = tuple(_scenarios())
"""The questions; none has the size of a calibration row or of a benchmark's."""


def _calibration() -> Iterator[tuple[str, bool, list[Candidate]]]:
    """Small, middle and large layers of every kind, by which the machine is learnt before anything is predicted."""
    shared: dict[str, Any] = {"length": 1, "height": 1, "width": 1, "generation": False, "reach": 64}
    for training in (False, True):
        for n, channels, batch in (
            (128, 128, 1),
            (512, 256, 4),
            (1024, 512, 1),
            (2048, 256, 1),
            (4096, 512, 1),
        ):
            for reach in (16, 128):
                yield (
                    f"n = {n}, d_model = {channels}, batch = {batch}, window = {reach}", training,
                    candidates("sequential", batch=batch, training=training, channels=channels,
                               **{**shared, "length": n, "reach": reach}),
                )  # fmt: skip
        for side, channels, batch in (
            (7, 512, 8), (14, 64, 1), (14, 256, 16), (28, 128, 8), (32, 64, 32), (48, 256, 1), (64, 32, 8), (80, 64, 1),
        ):  # fmt: skip
            yield (
                f"C = {channels}, {side} x {side}, batch = {batch}", training,
                candidates("spatial", batch=batch, training=training, channels=channels,
                           **{**shared, "height": side, "width": side}),
            )  # fmt: skip
        for side, frames in ((16, 4), (32, 16), (64, 2), (128, 1)):
            yield (
                f"{side} x {side}, {frames} frames", training,
                candidates("mixed", batch=1, training=training, channels=3,
                           **{**shared, "length": frames, "height": side, "width": side}),
            )  # fmt: skip
    for n, channels, batch in ((128, 256, 1), (1024, 512, 4), (4096, 512, 1), (4096, 1024, 4)):
        yield (
            f"writing: n = {n}, d_model = {channels}, batch = {batch}", False,
            candidates("sequential", batch=batch, training=False, channels=channels,
                       **{**shared, "length": n, "generation": True}),
        )  # fmt: skip


# --- Running -----------------------------------------------------------------------------------------------

Timing = Callable[[dict[str, Callable[[], object]]], dict[str, list[float]]]


def run_scenarios(
    out: Path | str,
    *,
    resume: bool = False,
    device: str | None = None,
    seconds: float = 2.0,
    scenarios: Sequence[Scenario] = SCENARIOS,
    timing: Timing | None = None,
    say: Callable[[str], object] = print,
) -> Record:
    """Learn a machine, let the selector answer, then measure everything that could have been the answer.

    Each finished step is on disk at once; a kill loses the step in progress, and `resume=True` goes on from there.

    Args:
        out: the file to write, `<machine>.json`.
        resume: go on with what an earlier run left.
        device: `"cpu"` or `"cuda"`; a GPU unless there is none.
        seconds: time for the rounds of each scenario; half of it for each step of the calibration.
        scenarios: the questions.
        timing: what times peers side by side; `benchmark.measure` unless given.
        say: gets what is worth a line.

    Returns:
        What the file holds.

    Raises:
        FileExistsError: there is a file, and `resume` was not asked for, or it was made elsewhere: the message names
            what differs, and the file stays as it was.
    """
    out = Path(out)
    device = device or this_machine.default_device()
    head = {
        "schema": SCHEMA,
        "name": out.stem,
        "machine": this_machine.describe() if device == "cpu" else torch.cuda.get_device_name(device),
        "device": device,
        "threads": torch.get_num_threads(),
        "versions": this_machine.versions(),
    }
    record = _begun(out, head, resume)
    timed = timing or _timing(device, seconds)
    if record["ceilings"] is None:
        record["ceilings"] = measured_ceilings(device)
        _save(out, record)

    done = {row["name"] for row in record["calibration"]}
    for name, training, choice in _calibration():
        if any(_row_name(name, candidate, training) in done for candidate in choice):
            continue
        say(f"calibration: {name}, {'training' if training else 'forward'}")
        record["calibration"] += _measured(name, choice, training, device, timed)
        _save(out, record)

    known = _learnt(out.stem, record)
    answered = {row["scenario"] for row in record["rows"]}
    for scenario in scenarios:
        if scenario.name in answered:
            continue
        say(scenario.name)
        record["rows"].append(_held(scenario, known, device, timed))
        _save(out, record)
    record["finished"] = True
    _save(out, record)
    return record


def _begun(out: Path, head: Record, resume: bool) -> Record:
    if not out.exists():
        return {
            **head, "date": time.strftime("%Y-%m-%d"), "finished": False, "ceilings": None, "calibration": [],
            "rows": [],
        }  # fmt: skip
    if not resume:
        raise FileExistsError(f"{out} is there: go on with --resume, or move it away")
    record = load_scenarios(out)
    different = [key for key in head if record.get(key) != head[key]]
    if different:
        was = "; ".join(f"{key}: {record.get(key)!r} there, {head[key]!r} here" for key in different)
        raise FileExistsError(f"{out} was made by another run ({was}); it stays as it was")
    return record


def _timing(device: str, seconds: float) -> Timing:
    def timed(peers: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
        return measure(peers, warmup=1, rounds=15, seconds=seconds, device=device, block_s=0.005, least=3)

    return timed


def _row_name(size: str, candidate: Candidate, training: bool) -> str:
    return f"{_who(candidate)}, {'training' if training else 'forward'}, {size}"


def _who(candidate: Candidate) -> str:
    options = ", ".join(f"{key} = {value}" for key, value in candidate.options.items())
    return f"{candidate.type} ({options})" if options else candidate.type


def _measured(
    size: str, choice: Iterable[Candidate], training: bool, device: str, timed: Timing
) -> list[dict[str, Any]]:
    choice = list(choice)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        calls = {_who(candidate): candidate.call(device, training=training) for candidate in choice}
        samples = timed(calls)
    return [
        {
            "name": _row_name(size, candidate, training),
            "kind": candidate.kind,
            "mode": "training" if training else "forward",
            "flops": candidate.price.flops,
            "bytes_moved": candidate.price.bytes_moved,
            "median_s": statistics.median(samples[_who(candidate)]),
        }
        for candidate in choice
    ]


def _learnt(stem: str, record: Record) -> Machine:
    """The machine as this run knows it: its own calibration, and its benchmark if there is one."""
    rows = calibration_rows(f"scenarios/{stem}.json", record["calibration"])
    hardware = hardware_of(stem, record["ceilings"])
    benchmark = machines().get(stem)
    if benchmark is not None:
        hardware = hardware_of(stem, benchmark["ceilings"])
        rows = benchmark_rows(f"{stem}.json", benchmark["rows"]) + rows
    return Machine(stem, hardware, tuple(rows))


def _held(scenario: Scenario, known: Machine, device: str, timed: Timing) -> dict[str, Any]:
    """What the selector says of every candidate, and what those that meet the demands took."""
    arguments = dict(scenario.arguments)
    entries = AttentionSelector.consider(**arguments, machine=known)
    asked = {key: value for key, value in arguments.items() if key not in _DEMANDS}
    choice = {_who(candidate): candidate for candidate in choice_of(**asked)}
    row: dict[str, Any] = {"scenario": scenario.name, "arguments": arguments, "candidates": []}
    able = [entry for entry in entries if not entry["out"]]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        training = bool(arguments.get("training"))
        calls = {_name(entry): choice[_name(entry)].call(device, training=training) for entry in able}
        samples = timed(calls) if calls else {}
        peaks = {name: peak_bytes(call, device=device) for name, call in calls.items()}
    for entry in entries:
        name = _name(entry)
        predicted = {key: entry[key] for key in ("seconds", "flops", "peak_bytes", "needs_bytes")}
        predicted["bytes_moved"] = choice[name].price.bytes_moved
        found = {
            "candidate": name, "implementation": entry["implementation"], "out": entry["out"], "predicted": predicted,
            "evidence": entry["evidence"],
        }  # fmt: skip
        if name in samples:
            found["median_s"] = statistics.median(samples[name])
            found["samples_s"] = samples[name]
            found["peak_bytes"] = peaks[name]
        row["candidates"].append(found)
    return json.loads(json.dumps(row))  # as it will be read again


def _name(entry: dict[str, Any]) -> str:
    options = ", ".join(f"{key} = {value}" for key, value in entry["options"].items())
    return f"{entry['type']} ({options})" if options else entry["type"]


def _save(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8") as stream:
        json.dump(record, stream, indent=1)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)


# --- Reading -----------------------------------------------------------------------------------------------


def load_scenarios(path: Path | str) -> Record:
    """What a file holds.

    Raises:
        ValueError: it is none of scenarios.
    """
    try:
        record = json.loads(Path(path).read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no record of scenarios: its schema is not {SCHEMA!r}")
    return record


def scenario_machines(folder: Path | None = None) -> dict[str, Record]:
    """Every finished record of `results/scenarios/`, by the stem of its file's name."""
    folder = (folder or this_machine.results_folder()) / "scenarios"
    found = {path.stem: load_scenarios(path) for path in sorted(folder.glob("*.json"))}
    return {stem: record for stem, record in found.items() if record["finished"]}


RULES: dict[str, Callable[[dict[str, Any]], float]] = {
    "the selector": lambda candidate: candidate["predicted"]["seconds"],
    "fewest FLOPs": lambda candidate: candidate["predicted"]["flops"],
    "fewest bytes moved": lambda candidate: candidate["predicted"]["bytes_moved"],
    "least memory": lambda candidate: candidate["predicted"]["peak_bytes"],
}
"""Ways to choose among the candidates that meet the demands; the first is the one under test."""


def comparisons(record: Record, rule: str = "the selector") -> list[dict[str, Any]]:
    """For each scenario with at least two candidates that meet its demands: what a rule chose, and what was best.

    Returns:
        Dictionaries of `scenario`, `chosen`, `best`, `ratio` (the chosen one's time over the best's), `right` (that it
        is at most `WITHIN`), and `pairs`: for each two candidates whose times differ by `APART` or more, the slower,
        the faster, the ratio of their times, and whether the rule has them in this order.
    """
    key = RULES[rule]
    found = []
    for row in record["rows"]:
        able = [candidate for candidate in row["candidates"] if "median_s" in candidate]
        if len(able) < 2:
            continue
        chosen, best = min(able, key=key), min(able, key=lambda candidate: candidate["median_s"])
        pairs = []
        for i, first in enumerate(able):
            for second in able[i + 1 :]:
                slow, fast = sorted((first, second), key=lambda candidate: -candidate["median_s"])
                times = slow["median_s"] / fast["median_s"]
                if times >= APART:
                    pairs.append(
                        {
                            "slower": slow["candidate"],
                            "faster": fast["candidate"],
                            "ratio": times,
                            "in_order": key(slow) > key(fast),
                        }
                    )
        ratio = chosen["median_s"] / best["median_s"]
        found.append(
            {
                "scenario": row["scenario"],
                "chosen": chosen["candidate"],
                "best": best["candidate"],
                "ratio": ratio,
                "right": ratio <= WITHIN,
                "pairs": pairs,
            }
        )
    return found


def agreement(record: Record, rule: str = "the selector") -> dict[str, Any]:
    """How often a rule's first choice was right, and how often its order.

    Returns:
        `scenarios` (those with a choice), `first_within`, `first_share`, `pairs`, `pairs_in_order`, `pair_share`,
        `candidates` (measured, on average for a scenario), and `misses`: the comparisons that were wrong, and
        `wrong_pairs`, each with its `scenario`. See `comparisons`.

    Raises:
        ValueError: no scenario has two candidates.
    """
    rows = comparisons(record, rule)
    if not rows:
        raise ValueError(f"no scenario of {record['name']} has two candidates that were measured")
    right = sum(row["right"] for row in rows)
    pairs = [{"scenario": row["scenario"], **pair} for row in rows for pair in row["pairs"]]
    in_order = sum(pair["in_order"] for pair in pairs)
    measured = [sum("median_s" in candidate for candidate in row["candidates"]) for row in record["rows"]]
    return {
        "scenarios": len(rows),
        "first_within": right,
        "first_share": right / len(rows),
        "pairs": len(pairs),
        "pairs_in_order": in_order,
        "pair_share": in_order / len(pairs) if pairs else 1.0,
        "candidates": statistics.mean(count for count in measured if count >= 2),
        "misses": [row for row in rows if not row["right"]],
        "wrong_pairs": [pair for pair in pairs if not pair["in_order"]],
    }
