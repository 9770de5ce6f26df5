"""Run make targets one after the other, and say at the end how long each took and how much memory.

    python tools/steps.py "make test" lint unit check-notebooks      goes on after a failure
    python tools/steps.py --stop "make book" stale site              ends at the first one
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path


def tree(pid: int) -> list[int]:
    """A process and all that it started, by Linux's /proc."""
    found = [pid]
    for parent in found:
        try:
            threads = list(Path(f"/proc/{parent}/task").glob("*/children"))
        except OSError:  # it ended while it was looked at
            continue
        for children in threads:
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return found


def memory(pid: int) -> int:
    """Bytes that a process and all that it started hold now, shared pages counted once."""
    total = 0
    for member in tree(pid):
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except OSError:  # it ended, or this system has no /proc
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def run(command: list[str]) -> tuple[int, float, int]:
    """Exit status, seconds, and peak bytes (0 where the system does not tell) of one command."""
    started = time.monotonic()
    process = subprocess.Popen(command)
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.5):
            peak = max(peak, memory(process.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        status = process.wait()
    finally:
        done.set()
        watcher.join()
    return status, time.monotonic() - started, peak


def spell(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def main(title: str, targets: list[str], stop: bool = False) -> int:
    make = os.environ.get("MAKE", "make")
    passed, failed, highest = [], [], 0
    begun = time.monotonic()
    for target in targets:
        print(f"== {target}", flush=True)
        status, seconds, peak = run([make, "--no-print-directory", target])
        highest = max(highest, peak)
        (failed if status else passed).append(f"{target} {spell(seconds)}")
        if status and stop:
            break
    held = f", at most {highest / 2**30:.1f} GiB" if highest else ""
    print(f"{title}: {'FAILED' if failed else 'passed'} in {spell(time.monotonic() - begun)}{held}"
          f" (passed: {', '.join(passed) or 'none'}; failed: {', '.join(failed) or 'none'})")  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        stop = "--stop" in sys.argv
        title, *targets = [argument for argument in sys.argv[1:] if argument != "--stop"]
        sys.exit(main(title, targets, stop))
    except KeyboardInterrupt:
        sys.exit(130)
