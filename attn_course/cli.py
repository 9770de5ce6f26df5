"""The command `attn-course`: one function for each subcommand, imported and run when it is asked for."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 if something failed, 2 for a wrong call."""
    arguments = _parser().parse_args(argv)
    return arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    """A new subcommand is a parser below and a function from its arguments to the exit status."""
    parser = argparse.ArgumentParser(prog="attn-course", description="Attention, measured on your machine.")
    commands = parser.add_subparsers(required=True, metavar="command")

    bench = commands.add_parser("bench", help="measure time and memory")
    suites = bench.add_subparsers(required=True, metavar="suite")
    speed = suites.add_parser("speed", help="this package beside its peers, in one run of about five minutes")
    speed.add_argument(
        "--out", type=Path, required=True, metavar="FILE.json", help="a new file for the record"
    )
    speed.add_argument("--quick", action="store_true", help="small sizes, in under a minute")
    speed.add_argument("--seconds", type=float, help="time for each case (15, or 2 if quick)")
    speed.add_argument("--compile", action="store_true", help="torch.compile as one more peer of CBAM")
    speed.add_argument("--device", help="cpu or cuda; a GPU unless there is none")
    speed.add_argument("--threads", type=int, help="threads of torch on the CPU; its own choice unless given")
    speed.set_defaults(run=_bench_speed)

    doctor = commands.add_parser("doctor", help="say what this machine has, and what will run on it")
    doctor.set_defaults(run=_doctor)
    return parser


def _bench_speed(arguments: argparse.Namespace) -> int:
    import torch

    from attn_course import benchmark

    if arguments.threads is not None:
        if arguments.threads < 1:
            print(f"--threads must be at least 1, got {arguments.threads}", file=sys.stderr)
            return 2
        torch.set_num_threads(arguments.threads)
    try:
        record = benchmark.record_speed(
            arguments.out,
            quick=arguments.quick,
            compiled=arguments.compile,
            seconds=arguments.seconds,
            device=arguments.device,
            say=lambda text: print(text, flush=True),
        )
    except FileExistsError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Written to {arguments.out}. The line (control) is {benchmark.OURS} against itself: the noise.")
    return 1 if any("failed" in row for row in record["rows"]) else 0


def _doctor(arguments: argparse.Namespace) -> int:
    import torch

    from attn_course import __version__, machine

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    memory = machine.memory_bytes()
    lines = {
        "attn_course": __version__,
        **machine.versions(),
        "machine": machine.describe(),
        "device": "cuda" if cuda else "mps" if mps else "cpu",
        "threads": f"{torch.get_num_threads()} of {machine.cores()} cores",
        "memory": f"{memory / 2**30:.1f} GiB" if memory else "unknown",
        "THP_MEM_ALLOC_ENABLE": os.environ.get("THP_MEM_ALLOC_ENABLE", "not set"),
        "chapters": "all, on the GPU" if cuda else "all, on the CPU",
        "bench speed": "in one run of about five minutes" + (" (on the CPU: --device cpu)" if mps else ""),
    }
    for name, value in lines.items():
        print(f"{name:22}{value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
