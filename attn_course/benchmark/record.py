"""The file of a benchmark: how it is made, safe from any interruption, and what is read from it."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from attn_course import machine
from attn_course.benchmark import worker
from attn_course.benchmark.clock import Ratio

SCHEMA = "attn-course/bench/1"
SUITE = "attn_course.benchmark.suite"
PEERS = ("timm", "local-attention", "einops", "hyper-connections")
"""The packages that the suite puts beside ours where they are installed."""

Record = dict[str, Any]

_SETTINGS = {"smoke": (1.0, 30), "course": (8.0, 100), "full": (15.0, 200)}
_ENVIRONMENT = (
    "CUDA_LAUNCH_BLOCKING",
    "GLIBC_TUNABLES",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "MALLOC_ARENA_MAX",
    "MALLOC_CONF",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_PROC_BIND",
    "ONEDNN_MAX_CPU_ISA",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
)
# What may differ between the parts of one run: the moment, and what the machine does by itself.
_VARIES = ("date", "memory_bytes", "clock", "gpu.clock_mhz", "gpu.performance_state")


# --- Making a file -----------------------------------------------------------------------------------------


def run(
    out: Path | str,
    *,
    preset: str = "course",
    resume: bool = False,
    device: str | None = None,
    threads: int | None = None,
    seconds: float | None = None,
    rounds: int | None = None,
    limit: float = 900.0,
    suite: str = SUITE,
    say: Callable[[str], object] = print,
    progress: bool = True,
) -> Record:
    """Run a preset of the suite and record it as JSON.

    Each finished row is on disk at once, as a line of `<out>.partial`, so a kill at any moment loses the case in
    progress and no other; `resume=True` goes on from there. At the end the rows become `out`, in one step. The
    cases run in a process of their own: one that dies, or gives no answer within `limit` seconds, is a row.

    Args:
        out: the file to write, `<name>.json`.
        preset: `"smoke"`, `"course"` or `"full"`.
        resume: go on with what an earlier run left, if it left anything.
        device: `"cpu"` or `"cuda"`; a GPU unless there is none.
        threads: torch's threads on the CPU; its own choice unless given.
        seconds: time for the rounds of each case; the preset's unless given.
        rounds: the most rounds of each case; the preset's unless given.
        limit: seconds after which a case is given up.
        suite: the module with the cases.
        say: gets what is worth a line.
        progress: show a bar.

    Returns:
        What the file holds.

    Raises:
        FileExistsError: there is a file, and it is another run's or damaged, or `resume` was not asked for. No
            file changes.
        BlockingIOError: another run is writing this file.
        ValueError: a preset, device or number that does not exist.
        RuntimeError: the process that runs the cases does not start.
    """
    out = Path(out)
    partial = out.with_name(f"{out.name}.partial")
    module = import_module(suite)
    device = _check(module, out, preset, device, threads, seconds, rounds, limit)
    head = _head(module, out, preset, device, threads, seconds, rounds)
    cases = module.cases(preset, device)

    if out.exists():
        return _finished(out, partial, head, resume)
    if partial.exists() and not resume:
        raise FileExistsError(f"{partial} was begun: go on with --resume, or move it away")
    with _Partial(partial, head, say) as file:
        if out.exists():  # another run has just finished
            raise FileExistsError(f"{out} is there and is not overwritten")
        strays = sorted(set(file.rows) - {case.name for case in cases})
        if strays:
            raise FileExistsError(f"{partial} has a case that is not of this suite: {strays[0]}")
        file.go_on()
        if file.rows:
            say(f"{len(file.rows)} of {len(cases)} cases are done")
        workers = _Workers(suite, file.head, limit, say)
        try:
            if file.ceilings is None:
                file.append(ceilings=workers.ceilings())
            with tqdm(
                total=len(cases), initial=len(file.rows), unit="case", disable=None if progress else True
            ) as bar:
                for case in cases:
                    if case.name in file.rows:
                        continue
                    bar.set_description(_shorten(case.name, 60))
                    file.append(row=workers.row(module, case, file.ceilings))
                    bar.update()
        finally:
            workers.stop()
        rows = [file.rows[case.name] for case in cases]
        record = {**file.head, "ceilings": file.ceilings, "rows": rows}
        _replace(out, (json.dumps(record, indent=1) + "\n").encode())
    partial.unlink()
    return record


def _check(
    module: Any,
    out: Path,
    preset: str,
    device: str | None,
    threads: int | None,
    seconds: float | None,
    rounds: int | None,
    limit: float,
) -> str:
    """The device to use, if everything that was asked for exists."""
    if preset not in module.PRESETS:
        raise ValueError(f"preset must be one of {', '.join(module.PRESETS)}, got {preset!r}")
    if out.suffix != ".json":
        raise ValueError(f"the file's name must end in .json, got {out.name!r}")
    for name, value, least in (("threads", threads, 1), ("rounds", rounds, 1), ("seconds", seconds, 0)):
        if value is not None and not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not limit > 0:
        raise ValueError(f"limit must be more than 0 seconds, got {limit}")
    device = device or machine.default_device()
    there = sorted({"cpu", machine.default_device()})
    if device not in there:
        raise ValueError(f"device must be one of {', '.join(there)} on this machine, got {device!r}")
    return device


def _head(
    module: Any,
    out: Path,
    preset: str,
    device: str,
    threads: int | None,
    seconds: float | None,
    rounds: int | None,
) -> Record:
    """The record without what the run finds: what it was asked for, and where it runs."""
    usual_seconds, usual_rounds = getattr(module, "PRESET_SETTINGS", _SETTINGS)[preset]
    settings: dict[str, Any] = {
        "seconds": usual_seconds if seconds is None else seconds,
        "rounds": usual_rounds if rounds is None else rounds,
        "device": device,
        "threads": threads or torch.get_num_threads(),
    }
    return {
        "schema": SCHEMA,
        "name": out.stem,
        "preset": preset,
        "settings": settings,
        "conditions": conditions(device, threads=settings["threads"]),
    }


def conditions(device: str = "cpu", *, threads: int | None = None) -> dict[str, Any]:
    """What a timing depends on: machine, device, threads, versions, allocator, clock, commit, and the date.

    Args:
        device: `"cpu"` or `"cuda"`.
        threads: how many are meant to be used; torch's setting unless given.
    """
    from attn_course import __version__

    packages = ("torch", "numpy", "triton", *PEERS)
    preload = [os.path.basename(path) for path in os.environ.get("LD_PRELOAD", "").split(":") if path]
    return {
        "machine": machine.describe(),
        "device": device,
        "processor": machine.processor(),
        "cores": machine.cores(),
        "threads": threads or torch.get_num_threads(),
        "memory_bytes": machine.memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "gpu": machine.gpu(device) if device == "cuda" else None,
        "clock": machine.clock(),
        "allocator": {
            "settings": {name: {"THP_MEM_ALLOC_ENABLE": value} for name, value in worker.ALLOCATORS.items()},
            "transparent_huge_pages": machine.huge_pages(),
            "preloaded": preload,
        },
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        "compiler": machine.compiler(),
        "versions": {**machine.versions(packages), "attn_course": __version__},
        "commit": machine.commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _finished(out: Path, partial: Path, head: Record, resume: bool) -> Record:
    """The record that is there already, if it is what the run was to make."""
    if not resume:
        raise FileExistsError(f"{out} is there and is not overwritten: take another name or move it away")
    try:
        found = load(out)
    except ValueError as error:
        raise FileExistsError(f"{error}; it is not overwritten") from error
    _must_agree(out, found, head)
    partial.unlink(missing_ok=True)  # a kill between the file's last two steps left it
    return found


def _must_agree(path: Path, found: Record, head: Record) -> None:
    told = differences(found, head)
    if told:
        raise FileExistsError(
            f"{path} is another run's and stays as it is: {'; '.join(told)}. "
            "Give this run a file of its own: --out FILE, with make OUT=FILE"
        )


def differences(found: Record, wanted: Record) -> list[str]:
    """What keeps two runs from being parts of one: each field, as the first has it and as the second has it.

    The date, the clock at that moment and the exact memory may differ; so may the file's name.
    """
    flat = []
    for record in (found, wanted):
        fields = {key: record.get(key) for key in ("schema", "preset", "settings")}
        flat.append(dict(_flat({**fields, **(record.get("conditions") or {})})))
    names = [*flat[1], *(name for name in flat[0] if name not in flat[1])]
    there, here = flat
    return [
        f"{name} was {there.get(name)!r} and is {here.get(name)!r}"
        for name in names
        if there.get(name) != here.get(name)
        and not any(name == varies or name.startswith(f"{varies}.") for varies in _VARIES)
    ]


def _flat(fields: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


class _Workers:
    """One process for each allocator setting, begun when it is first needed and replaced when it is lost."""

    def __init__(self, suite: str, head: Record, limit: float, say: Callable[[str], object]) -> None:
        settings = head["settings"]
        self._start = (suite, head["preset"], settings["device"], settings["threads"])
        self._effort = {"seconds": settings["seconds"], "rounds": settings["rounds"]}
        self._limit, self._say = limit, say
        self._workers: dict[str, worker.Worker] = {}

    def _get(self, allocator: str) -> worker.Worker:
        found = self._workers.get(allocator)
        if found is None or not found.alive():
            self._drop(allocator)
            try:
                found = worker.Worker(*self._start, allocator=allocator)
            except worker.WorkerDied as error:
                raise RuntimeError(f"the process that runs the cases does not start: {error}") from error
            self._workers[allocator] = found
        return found

    def _drop(self, allocator: str) -> None:
        lost = self._workers.pop(allocator, None)
        if lost is not None:
            lost.stop()

    def ceilings(self) -> dict[str, Any]:
        """What this machine reaches at most; nothing, if even that fails."""
        try:
            return self._get("default").ask(self._limit, ask="ceilings")
        except worker.WorkerDied as error:
            self._drop("default")
            self._say(f"the machine's ceilings are not known: {error}")
            return {}

    def row(self, module: Any, case: Any, ceilings: dict[str, Any] | None) -> dict[str, Any]:
        """Run a case; losing the process that runs it is a row too."""
        found = self._get(case.allocator)
        try:
            row = found.ask(self._limit, case=case.name, ceilings=ceilings or None, **self._effort)
        except worker.WorkerDied as error:
            words = found.last_words()
            self._say(f"{case.name}: {error}" + (f" (its last words: {words})" if words else ""))
            row = {**worker.empty_row(module, case), "status": "killed", "message": str(error)}
        except RuntimeError as error:
            row = {**worker.empty_row(module, case), "message": str(error)}
        if row["status"] == "failed" and found.alive() and self._start[2] != "cpu":
            self._drop(case.allocator)  # after an error a GPU's context may be beyond use
        return row

    def stop(self) -> None:
        """End every process."""
        for allocator in list(self._workers):
            self._drop(allocator)


# --- The partial file --------------------------------------------------------------------------------------


class _Partial:
    """Lines of JSON: the head, the ceilings, then a line for each row; locked while it is open.

    A line counts when it ends in its newline. What follows the last newline was cut off in the writing: it is told,
    and taken off when the run goes on.
    """

    def __init__(self, path: Path, head: Record, say: Callable[[str], object]) -> None:
        self.path, self.head, self._wanted = path, head, head
        self.ceilings: dict[str, Any] | None = None
        self.rows: dict[str, dict[str, Any]] = {}
        self._say = say
        self._whole, self._rest = 0, b""

    def __enter__(self) -> _Partial:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered, so that one append is one write.
        self._file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
        try:
            _lock(self._file.fileno(), self.path)
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _read(self) -> None:
        content = self._file.read()
        *lines, self._rest = content.split(b"\n")
        self._whole = len(content) - len(self._rest)
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if (number == 1) != ("head" in entry):
                    raise ValueError("its head is not its first line")
                self._take(entry)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise FileExistsError(
                    f"{self.path} is damaged in line {number} ({error}): it stays as it is"
                ) from error
        if lines:
            _must_agree(self.path, self.head, self._wanted)

    def go_on(self) -> None:
        """Make the file ready for more lines: until here it was only read."""
        if self._rest:
            self._say(f"the last line of {self.path} is cut off after {len(self._rest)} bytes and is skipped")
        self._file.truncate(self._whole)
        self._file.seek(0, os.SEEK_END)
        if not self._whole:
            self.append(head=self._wanted)
            _sync_folder(self.path)

    def append(self, **entry: Any) -> None:
        """Put one entry on disk; when this returns, no kill can take it away."""
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        while line:
            line = line[self._file.write(line) :]
        os.fsync(self._file.fileno())
        self._take(entry)

    def _take(self, entry: dict[str, Any]) -> None:
        (kind, value), *more = entry.items()
        if more or kind not in ("head", "ceilings", "row"):
            raise ValueError("not a line of a benchmark")
        if kind == "row":
            self.rows.setdefault(value["case"], value)
        elif kind == "head":
            self.head = value
        else:
            self.ceilings = value


def _lock(descriptor: int, path: Path) -> None:
    """Take the file for this process until it closes it or dies, where the system has such locks."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(f"another run is writing {path}") from None
    except OSError:
        return  # a file system without locks
    if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
        raise BlockingIOError(f"another run has just finished {path}")


def _replace(path: Path, content: bytes) -> None:
    """Write a file in one step, so that a kill at any moment leaves the whole of it or nothing."""
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(fresh, path)
    _sync_folder(path)


def _sync_folder(path: Path) -> None:
    """Put the names of a folder on disk, where the system lets one."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(folder)
    except OSError:
        pass
    finally:
        os.close(folder)


# --- Reading files -----------------------------------------------------------------------------------------


def load(path: Path | str) -> Record:
    """The record in a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file holds something else.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path} has the schema {schema!r}, expected {SCHEMA!r}")
    missing = sorted({"name", "preset", "settings", "conditions", "ceilings", "rows"} - set(found))
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def machines(folder: Path | None = None) -> dict[str, Record]:
    """Every record of `results/`, by the stem of its file's name, in the order of the names.

    Raises:
        ValueError: a file there is none.
    """
    return {path.stem: load(path) for path in sorted((folder or machine.results_folder()).glob("*.json"))}


def validate(record: Record) -> None:
    """Hold a record against `schema.json`, and against what a schema cannot say.

    Raises:
        ValueError: with every fault on a line of its own, each with its path.
        ImportError: without the package jsonschema.
    """
    faults = _schema_faults(record)
    faults = faults or list(_meaning_faults(record))
    if faults:
        raise ValueError("\n".join(faults))


def schema() -> dict[str, Any]:
    """The schema that `validate` uses."""
    return json.loads(Path(__file__).with_name("schema.json").read_text(encoding="utf-8"))


def _schema_faults(record: Record) -> list[str]:
    try:
        from jsonschema import Draft202012Validator
    except ImportError as error:
        raise ImportError("validating needs jsonschema: pip install 'attn-course[bench]'") from error
    faults = Draft202012Validator(schema()).iter_errors(record)
    return [f"{fault.json_path}: {_shorten(fault.message, 300)}" for fault in faults]


def _meaning_faults(record: Record) -> Iterator[str]:
    seen: dict[str, int] = {}
    for i, row in enumerate(record["rows"]):
        if row["case"] in seen:
            yield f"$.rows[{i}].case: {row['case']!r} stands in row {seen[row['case']]} already"
        seen[row["case"]] = i
        if row["status"] != "measured":
            continue
        for name in (row["ours"], row["baseline"], _control(row)):
            if name not in row["peers"]:
                yield f"$.rows[{i}].peers: lacks {name!r}"
        if len({len(peer["samples_s"]) for peer in row["peers"].values()}) > 1:
            yield f"$.rows[{i}].peers: not as many rounds for each"
        for name, peer in row["peers"].items():
            where = f"$.rows[{i}].peers[{name!r}]"
            if peer["runs"] != len(peer["samples_s"]):
                yield f"{where}.runs: is {peer['runs']}, there are {len(peer['samples_s'])} samples"
            elif not math.isclose(peer["median_s"], statistics.median(peer["samples_s"]), rel_tol=1e-6):
                yield f"{where}.median_s: is {peer['median_s']}, not the median of its samples"
            elif not peer["first_quartile_s"] <= peer["median_s"] <= peer["third_quartile_s"]:
                yield f"{where}: its quartiles are out of order"
            low, middle, high = (peer["time_ratio"][part] for part in ("low", "median", "high"))
            if not low <= middle <= high:
                yield f"{where}.time_ratio: {middle} is not between {low} and {high}"


def _control(row: dict[str, Any]) -> str:
    return f"{row['ours']} (control)"


def table(record: Record) -> str:
    """The rows as text: each peer's median, its time over ours with the interval, and its peak memory.

    The control, ours against itself, stands in each case's first line: no ratio of that case means more than the
    distance of this one from 1.
    """
    lines = []
    for row in record["rows"]:
        lines.append(row["case"])
        if row["status"] != "measured":
            lines.append(f"  {row['status']}: {row['message']}")
            continue
        control = row["peers"].get(_control(row))
        said = f"{row['peers'][row['ours']]['runs']} rounds"
        if control:
            said += f", control {Ratio(**control['time_ratio'])}"
        lines.append(f"  {said:46}{'median':>12}{'time / ours':>22}{'peak':>13}{'of the ceiling':>16}")
        for name, peer in row["peers"].items():
            if name == _control(row):
                continue
            lines.append(
                f"  {name:46}{_duration(peer['median_s']):>12}{Ratio(**peer['time_ratio'])!s:>22}"
                f"{_mib(peer.get('peak_bytes')):>13}{_share(peer):>16}"
            )
        for name, reason in row.get("absent", {}).items():
            lines.append(f"  {name:46}  absent: {reason}")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


def _mib(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.1f} MiB"


def _share(peer: dict[str, Any]) -> str:
    """What binds it, and how much of that it uses: the larger of the two shares of the machine's ceilings."""
    shares = [(peer.get("flops_share") or 0.0, "FLOP/s"), (peer.get("bytes_share") or 0.0, "bytes/s")]
    share, of = max(shares)
    return f"{share:.0%} {of}" if share else ""


def bars_table(bars: Sequence[dict[str, Any]]) -> str:
    """`suite.bars(rows)` as text: whether a ratio reached what it had to, its interval, and the control's."""
    if all(bar["value"] is None for bar in bars):
        return f"  none of the {len(bars)} was measured (the preset smoke leaves them out)"
    lines = []
    for bar in bars:
        if bar["value"] is None:
            lines.append(f"  {'not measured':14}{bar['label']}")
            continue
        found = f"{bar['value']:.2f}"
        if bar["control"] is not None:
            low, high = bar["control"]
            found = f"{Ratio(bar['value'], bar['low'], bar['high'])}, control [{low:.2f}, {high:.2f}]"
        mark = "NOT REACHED"
        if bar["reached"]:
            mark = "reached" if bar["value"] >= bar["bound"] else "in the noise"
        lines.append(f"  {mark:14}{bar['label']}: {found}; bar {bar['bound']:.3g}")
    return "\n".join(lines)


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


# --- Two files ---------------------------------------------------------------------------------------------


def compare(a: Record, b: Record) -> dict[str, Any]:
    """How many times as long each case and peer took in `b` as in `a`, and which of that exceeds the noise.

    The ratio is that of the two medians. Its interval takes the lowest and the highest that the two medians can be:
    each lies, whatever the distribution, between two of its ordered samples with 97.5 %, so both do with 95 %.
    The noise is a factor: how far from 1 the A/A controls of the two files stray, this case's by their intervals and
    nine in ten of all cases' by their medians, whichever is more. A difference counts as one (`"slower"`,
    `"faster"`) if the interval, widened by the noise on either side, leaves 1 out; else the two are `"same"`, as far
    as these files can tell.

    Returns:
        `a`, `b`: names; `machines`; `differences`: what else is not the same in the two runs; `rows`: a dictionary
        for each case and peer with `case`, `peer`, `a_median_s`, `b_median_s`, `a_over_ours`, `b_over_ours`,
        `ratio`, `low`, `high`, `noise` and `verdict`; `only_a`, `only_b`: cases that were measured in one file alone.
    """
    measured = [
        {row["case"]: row for row in record["rows"] if row["status"] == "measured"} for record in (a, b)
    ]
    both = [name for name in measured[0] if name in measured[1]]
    strayed = sorted(_distance(row, "median") for rows in measured for row in rows.values())
    general = strayed[9 * (len(strayed) - 1) // 10] if strayed else 1.0
    found = []
    for name in both:
        row_a, row_b = (rows[name] for rows in measured)
        noise = max(general, *(_distance(row, part) for row in (row_a, row_b) for part in ("low", "high")))
        for peer, of_a in row_a["peers"].items():
            if peer not in row_b["peers"] or peer == _control(row_a):
                continue
            of_b = row_b["peers"][peer]
            low_a, high_a = median_interval(of_a["samples_s"])
            low_b, high_b = median_interval(of_b["samples_s"])
            low, high = low_b / high_a, high_b / low_a
            found.append(
                {
                    "case": name,
                    "peer": peer,
                    "a_median_s": of_a["median_s"],
                    "b_median_s": of_b["median_s"],
                    "a_over_ours": of_a["time_ratio"]["median"],
                    "b_over_ours": of_b["time_ratio"]["median"],
                    "ratio": of_b["median_s"] / of_a["median_s"],
                    "low": low,
                    "high": high,
                    "noise": noise,
                    "verdict": "slower" if low > noise else "faster" if high * noise < 1 else "same",
                }
            )
    return {
        "a": a["name"],
        "b": b["name"],
        "machines": (a["conditions"]["machine"], b["conditions"]["machine"]),
        "differences": differences(a, b),
        "rows": found,
        "only_a": [name for name in measured[0] if name not in measured[1]],
        "only_b": [name for name in measured[1] if name not in measured[0]],
    }


def _distance(row: dict[str, Any], part: str) -> float:
    """How far from 1, as a factor, the control of a row lies."""
    control = row["peers"].get(_control(row))
    value = control["time_ratio"][part] if control else 1.0
    return max(value, 1 / value)


def median_interval(samples: Sequence[float], *, outside: float = 0.025) -> tuple[float, float]:
    """Two of the ordered samples that have the true median between them but for a chance of `outside`.

    From the `k`-th smallest to the `k`-th largest of `n`: the median is not between them as often as `n` coins show
    fewer than `k` heads or fewer than `k` tails. With fewer samples than 7 the whole range is not sure enough,
    and is given all the same.

    Raises:
        ValueError: without samples.
    """
    if not samples:
        raise ValueError("need at least one sample, got none")
    ordered, n, k = sorted(samples), len(samples), 1
    chance = 2 / 2**n
    while chance + 2 * math.comb(n, k) / 2**n <= outside:
        chance += 2 * math.comb(n, k) / 2**n
        k += 1
    return ordered[k - 1], ordered[n - k]


def comparison_table(comparison: dict[str, Any]) -> str:
    """What `compare` found, as text."""
    lines = [
        f"A: {comparison['a']}, {comparison['machines'][0]}",
        f"B: {comparison['b']}, {comparison['machines'][1]}",
    ]
    lines += [f"   {difference}" for difference in comparison["differences"]]
    case = None
    for row in comparison["rows"]:
        if row["case"] != case:
            case = row["case"]
            lines.append(case)
            noise = f"noise: a factor of {row['noise']:.2f}"
            lines.append(f"  {noise:46}{'A':>12}{'B':>12}{'B / A':>22}{'/ ours, A':>11}{'B':>7}")
        ratio = Ratio(row["ratio"], row["low"], row["high"])
        verdict = "" if row["verdict"] == "same" else row["verdict"]
        times = f"{_duration(row['a_median_s']):>12}{_duration(row['b_median_s']):>12}"
        shares = f"{row['a_over_ours']:>11.2f}{row['b_over_ours']:>7.2f}"
        lines.append(f"  {row['peer']:46}{times}{ratio!s:>22}{shares}  {verdict}".rstrip())
    for which in ("a", "b"):
        lines += [f"only in {which.upper()}: {name}" for name in comparison[f"only_{which}"]]
    verdicts = [row["verdict"] for row in comparison["rows"]]
    lines.append(
        f"{len(verdicts)} times compared: {verdicts.count('slower')} slower in B, {verdicts.count('faster')} faster, "
        f"{verdicts.count('same')} not told apart from noise"
    )
    return "\n".join(lines)
