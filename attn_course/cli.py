"""The command `attn-course`: one function for each subcommand, imported and run when it is asked for."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0; 1 if something failed or was refused; 2 for a wrong call; 130 if it was stopped by Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    """A new subcommand is a parser below and a function from its arguments to the exit status."""
    parser = argparse.ArgumentParser(prog="attn-course", description="Attention, measured on your machine.")
    commands = parser.add_subparsers(required=True, metavar="command")

    bench = commands.add_parser("bench", help="measure time and memory, and read what was measured")
    actions = bench.add_subparsers(required=True, metavar="action")

    run = actions.add_parser("run", help="every mechanism beside its peers, recorded in a file")
    run.add_argument("--preset", default="course", help="smoke (under a minute), course or full")
    run.add_argument("--out", type=Path, metavar="FILE.json", help="results/<this machine>.json unless given")
    run.add_argument("--resume", action="store_true", help="go on with what an interrupted run left")
    run.add_argument("--device", help="cpu or cuda; a GPU unless there is none")
    run.add_argument("--threads", type=int, help="threads of torch on the CPU; its own choice unless given")
    run.add_argument("--seconds", type=float, help="time for each case; the preset's unless given")
    run.add_argument(
        "--limit", type=float, default=900.0, metavar="SECONDS", help="give a case up after it (900)"
    )
    run.set_defaults(run=_bench_run)

    show = actions.add_parser("show", help="print a file: times, ratios beside their control, and the bars")
    show.add_argument("file", type=Path, metavar="FILE.json")
    show.set_defaults(run=_bench_show)

    compare = actions.add_parser(
        "compare", help="how many times as long B took as A, and what exceeds the noise"
    )
    compare.add_argument("a", type=Path, metavar="A.json")
    compare.add_argument("b", type=Path, metavar="B.json")
    compare.set_defaults(run=_bench_compare)

    plot = actions.add_parser("plot", help="draw a file: each peer's time over ours, with its interval")
    plot.add_argument("file", type=Path, metavar="FILE.json")
    plot.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    plot.set_defaults(run=_bench_plot)

    validate = actions.add_parser("validate", help="hold files against the schema")
    validate.add_argument("files", type=Path, nargs="+", metavar="FILE.json")
    validate.set_defaults(run=_bench_validate)

    scenarios = commands.add_parser("scenarios", help="hold the selector's answers against measurements")
    steps = scenarios.add_subparsers(required=True, metavar="action")
    ask = steps.add_parser(
        "run", help="learn this machine, answer, measure everything that could be the answer"
    )
    ask.add_argument(
        "--out", type=Path, metavar="FILE.json", help="results/scenarios/<this machine>.json unless given"
    )
    ask.add_argument("--resume", action="store_true", help="go on with what an interrupted run left")
    ask.add_argument("--device", help="cpu or cuda; a GPU unless there is none")
    ask.add_argument("--seconds", type=float, default=2.0, help="time for each scenario (2)")
    ask.set_defaults(run=_scenarios_run)
    told = steps.add_parser(
        "show", help="how often the first choice and the order were right, and every miss"
    )
    told.add_argument("file", type=Path, metavar="FILE.json")
    told.set_defaults(run=_scenarios_show)

    check = commands.add_parser(
        "check", help="run the exercises of completed notebooks, and say which mistakes are in"
    )
    check.add_argument(
        "notebooks", type=Path, nargs="+", metavar="NOTEBOOK", help=".ipynb, or .py with # %%%% cells"
    )
    check.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON, too (- for here)")
    _grading_options(check)
    check.set_defaults(run=_check)

    grade = commands.add_parser(
        "grade", help="grade a folder of completed notebooks; a run that was stopped goes on"
    )
    grade.add_argument("folder", type=Path, metavar="FOLDER", help="a file, or a folder, for each student")
    grade.add_argument(
        "--out", type=Path, required=True, metavar="GRADES.csv", help="a row for each exercise"
    )
    grade.add_argument(
        "--summary", type=Path, metavar="FILE.md", help="the class at a glance; GRADES.md unless given"
    )
    grade.add_argument(
        "--again", nargs="+", default=(), metavar="STATUS",
        help="grade these once more: stopped, error, …, or a diagnosis such as no-progress",
    )  # fmt: skip
    grade.add_argument(
        "--forget", action="store_true", help="drop the rows of files that are no longer in FOLDER"
    )
    _grading_options(grade)
    grade.set_defaults(run=_grade)

    doctor = commands.add_parser("doctor", help="say what this machine has, and what will run on it")
    doctor.set_defaults(run=_doctor)
    return parser


def _grading_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--chapter", type=int, help="this chapter's exercises; found out unless given")
    parser.add_argument(
        "--exercises", nargs="+", default=(), metavar="ID", help="these alone: split-heads, …"
    )
    parser.add_argument("--seed", type=int, help="of the cases; drawn anew unless given")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each answer (60)")
    parser.add_argument(
        "--weak-sandbox",
        action="store_true",
        help="run also where submissions cannot be locked in (see the book)",
    )


def _bench_run(arguments: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from attn_course import machine
    from attn_course.benchmark import record

    device = arguments.device
    out = arguments.out or Path("results") / f"{machine.slug(device or machine.default_device())}.json"
    try:
        found = record.run(
            out,
            preset=arguments.preset,
            resume=arguments.resume,
            device=device,
            threads=arguments.threads,
            seconds=arguments.seconds,
            limit=arguments.limit,
            say=tqdm.write,
        )
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except (FileExistsError, BlockingIOError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = ["attn-course", "bench", "run", *_given(arguments), "--out", str(out), "--resume"]
        print(f"\nStopped. No finished case is lost; go on with\n  {shlex.join(again)}", file=sys.stderr)
        return INTERRUPTED
    _print_record(found)
    print(f"Written to {out}.")
    lost = [row for row in found["rows"] if row["status"] in ("failed", "wrong")]
    for row in lost:
        print(f"{row['status']}: {row['case']}: {row['message']}", file=sys.stderr)
    return 1 if lost else 0


def _given(arguments: argparse.Namespace) -> list[str]:
    """The options of a run that decide whether another one can go on with its file."""
    given = ["--preset", arguments.preset]
    for name in ("device", "threads", "seconds"):
        value = getattr(arguments, name)
        given += (
            [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
            if value is not None
            else []
        )
    return given


def _print_record(found: dict[str, Any]) -> None:
    from attn_course.benchmark import record, suite

    conditions = found["conditions"]
    print(
        f"{found['name']}: {conditions['machine']}, torch {conditions['versions']['torch']}, {conditions['date']}"
    )
    print(record.table(found))
    print("Bars (a ratio counts as reached when its interval includes the bound):")
    print(record.bars_table(suite.bars(found["rows"])))


def _reading(action: Callable[[], None]) -> int:
    """Run what reads files; say what is wrong with them in a line each."""
    try:
        action()
    except (OSError, ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _bench_show(arguments: argparse.Namespace) -> int:
    from attn_course.benchmark import record

    return _reading(lambda: _print_record(record.load(arguments.file)))


def _bench_compare(arguments: argparse.Namespace) -> int:
    from attn_course.benchmark import record

    def compare() -> None:
        a, b = record.load(arguments.a), record.load(arguments.b)
        print(record.comparison_table(record.compare(a, b)))

    return _reading(compare)


def _bench_plot(arguments: argparse.Namespace) -> int:
    from attn_course.benchmark import record

    def plot() -> None:
        found = record.load(arguments.file)
        try:
            from attn_course import plots
        except ImportError as error:
            raise ImportError(
                "drawing needs matplotlib and seaborn: pip install 'attn-course[notebooks]'"
            ) from error
        plots.use_house_style()
        figure = plots.benchmark_ratios(found)
        figure.savefig(arguments.out, dpi=150, bbox_inches="tight")
        print(f"Drawn to {arguments.out}.")

    return _reading(plot)


def _bench_validate(arguments: argparse.Namespace) -> int:
    from attn_course.benchmark import record

    status = 0
    for file in arguments.files:
        try:
            record.validate(record.load(file))
            print(f"{file}: valid")
        except ImportError as error:
            print(error, file=sys.stderr)
            return 1
        except (OSError, ValueError) as error:
            status = 1
            for line in str(error).splitlines():
                print(line if str(file) in line else f"{file}: {line}", file=sys.stderr)
    return status


def _scenarios_run(arguments: argparse.Namespace) -> int:
    from attn_course import machine, selection

    device = arguments.device
    name = f"{machine.slug(device or machine.default_device())}.json"
    out = arguments.out or Path("results") / "scenarios" / name
    try:
        record = selection.run_scenarios(
            out, resume=arguments.resume, device=device, seconds=arguments.seconds
        )
    except (FileExistsError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        given = ["--out", str(arguments.out)] if arguments.out else []
        given += ["--device", device] if device else []
        again = shlex.join(["attn-course", "scenarios", "run", *given, "--resume"])
        print(f"\nStopped. No finished scenario is lost; go on with\n  {again}", file=sys.stderr)
        return INTERRUPTED
    _print_agreement(record)
    print(f"Written to {out}.")
    return 0


def _scenarios_show(arguments: argparse.Namespace) -> int:
    from attn_course import selection

    try:
        _print_agreement(selection.load_scenarios(arguments.file))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _print_agreement(record: dict[str, Any]) -> None:
    from attn_course import selection

    print(f"{record['name']}: {record['machine']}, {record['threads']} threads")
    for rule in selection.RULES:
        found = selection.agreement(record, rule)
        print(
            f"{rule:20} first choice within 15 % of the best: {found['first_within']} of {found['scenarios']} "
            f"({found['first_share']:.0%}); order right: {found['pairs_in_order']} of {found['pairs']} pairs "
            f"({found['pair_share']:.0%})"
        )
    found = selection.agreement(record)
    for miss in found["misses"]:
        print(f"miss: {miss['scenario']}: {miss['chosen']} took {miss['ratio']:.2f} times {miss['best']}")
    for pair in found["wrong_pairs"]:
        print(
            f"order: {pair['scenario']}: {pair['slower']} took {pair['ratio']:.2f} times {pair['faster']}, "
            "predicted the other way round"
        )


def _check(arguments: argparse.Namespace) -> int:
    import secrets

    from attn_course import grading

    if not (_known_chapter(arguments.chapter) and _known_exercises(arguments.exercises)):
        return 2
    seed = secrets.randbelow(1 << 31) if arguments.seed is None else arguments.seed
    rows = []
    quiet = arguments.json == Path("-")
    try:
        with grading.Sandbox(_allowance(arguments), weak=arguments.weak_sandbox) as sandbox:
            for path in arguments.notebooks:
                found = grading.check_file(
                    path, sandbox, seed, student=path.stem, chapter=arguments.chapter, exercises=arguments.exercises
                )  # fmt: skip
                rows += found
                if not quiet:
                    print(f"{found[0].file}\n{grading.table(found)}\n", flush=True)
        if quiet:
            print(grading.as_json(rows))
        elif arguments.json:
            arguments.json.write_text(grading.as_json(rows) + "\n", encoding="utf-8")
    except (OSError, grading.SandboxError) as error:
        print(f"{error}{_advice(error)}", file=sys.stderr)
        return 1
    return 1 if any(row.status == "refused" for row in rows) else 0


def _grade(arguments: argparse.Namespace) -> int:
    from attn_course import grading

    if not (_known_chapter(arguments.chapter) and _known_exercises(arguments.exercises)):
        return 2
    if threading.current_thread() is threading.main_thread():
        for ends in ("SIGTERM", "SIGHUP"):  # as for Ctrl-C: nothing is left behind
            if hasattr(signal, ends):
                signal.signal(getattr(signal, ends), signal.default_int_handler)
    try:
        known = [*grading.STATUSES, *(grading.diagnoses(arguments.out) if arguments.again else ())]
        if not _all_known("status", arguments.again, known):
            return 2
        rows = grading.grade(
            arguments.folder, arguments.out, chapter=arguments.chapter, exercises=arguments.exercises,
            seed=arguments.seed, allowance=_allowance(arguments), again=arguments.again, forget=arguments.forget,
            weak=arguments.weak_sandbox,
            say=lambda text: print(text, flush=True),
        )  # fmt: skip
        told = grading.summary(rows)
        (arguments.summary or arguments.out.with_suffix(".md")).write_text(told, encoding="utf-8")
        grading.by_student(arguments.out).write_text(grading.points(rows), encoding="utf-8", newline="")
    except (OSError, ValueError, grading.SandboxError) as error:
        print(f"{error}{_advice(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. No finished notebook is lost; the same command goes on.", file=sys.stderr)
        return INTERRUPTED
    print(told)
    print(f"Written to {arguments.out}; the points of each student to {grading.by_student(arguments.out)}.")
    return 0


def _allowance(arguments: argparse.Namespace) -> Any:
    from attn_course import grading

    return grading.Allowance(seconds=arguments.seconds)


def _known_chapter(chapter: int | None) -> bool:
    from attn_course.exercises import catalog

    known = sorted({exercise.chapter for exercise in catalog()})
    if chapter is not None and chapter not in known:
        print(f"no chapter {chapter}; there are {known[0]} to {known[-1]}", file=sys.stderr)
        return False
    return True


def _known_exercises(names: Sequence[str]) -> bool:
    from attn_course.exercises import catalog

    return _all_known("exercise", names, [exercise.id for exercise in catalog()])


def _all_known(what: str, names: Sequence[str], known: Sequence[str]) -> bool:
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no {what} {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
    return not unknown


def _advice(error: Exception) -> str:
    from attn_course import grading

    if not isinstance(error, grading.SandboxError):
        return ""
    return (
        ".\nUse a container, or --weak-sandbox if you trust every submission: see the book's page on grading."
    )


def _doctor(arguments: argparse.Namespace) -> int:
    import torch

    from attn_course import __version__, machine
    from attn_course.benchmark import memory, record, suite, worker

    device = machine.default_device()
    total = machine.memory_bytes()
    clock = machine.clock()
    peers = machine.versions(record.PEERS)
    lines = {
        "attn_course": __version__,
        **machine.versions(),
        "machine": machine.describe(),
        "device": device,
        "threads": f"{torch.get_num_threads()} of {machine.cores()} cores",
        "clock": f"{clock['mhz'] or 'unknown'} MHz, governor {clock['governor'] or 'not told'}",
        "memory": f"{_gib(memory.free_bytes('cpu'))} free of {_gib(total)}",
    }
    if device == "cuda":
        gpu = machine.gpu()
        lines["GPU"] = f"{gpu['name']}, driver {gpu['driver'] or 'unknown'}, CUDA {gpu['cuda']}"
        lines["GPU memory"] = f"{_gib(memory.free_bytes('cuda'))} free of {_gib(gpu['memory_bytes'])}"
        lines["GPU clock"] = (
            f"{gpu['clock_mhz']} of {gpu['clock_max_mhz']} MHz, {gpu['power_limit_w']} W at most"
        )
    else:
        lines["GPU"] = "none that torch can use with CUDA"
    lines["compiler"] = machine.compiler() or "none: torch.compile will not run on the CPU"
    lines["huge pages"] = machine.huge_pages() or "unknown"
    lines["THP_MEM_ALLOC_ENABLE"] = os.environ.get("THP_MEM_ALLOC_ENABLE", "not set")
    for name in record.PEERS:
        lines[name] = peers.get(name, "not installed: its rows will be absent (make bench installs it)")
    for name, what in (("jsonschema", "bench validate"), ("matplotlib", "bench plot")):
        if name not in machine.versions([name]):
            lines[what] = f"needs {name}, which is not installed"
    lines["chapters"] = "all, on the GPU" if device == "cuda" else "all, on the CPU"
    for preset in suite.PRESETS:
        cases = suite.cases(preset, device)
        free = memory.free_bytes(device)
        needs = [worker.needed_bytes(suite, case) for case in cases]
        large = sum(1 for need in needs if need is not None and free is not None and need > free)
        lines[f"bench {preset}"] = f"{len(cases)} cases" + (
            f", {large} too large for this machine" if large else ""
        )
    from attn_course import grading

    lines.update(grading.protections())
    for name, value in lines.items():
        print(f"{name:22}{value}")
    return 0


def _gib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**30:.1f} GiB"


if __name__ == "__main__":
    sys.exit(main())
