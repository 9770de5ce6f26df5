"""Runs inside the sandbox: takes one job after the other, each in a locked process of its own, and sends back bytes.

The first process loads torch and forks one for each submission; that one forks one for each answer. Only the last
runs a line of the submission, after it has locked itself; the first never sees one, so that nothing that a student
wrote is in the memory of the process that runs the next. Nothing of the judge and no solution is in the folder, and
the last process can read little else.

The line "next" begins a submission, the line "end" ends it. Between them a job is a line of JSON: the exercise, the
seed, the statements to run. An answer is a line of JSON with the number of bytes that follow it: `wire.pack`'s report,
or nothing.
"""

from __future__ import annotations
import __future__

import contextlib
import json
import linecache
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_MOST_BYTES = 64 << 20


def main() -> None:
    sys.path.insert(0, str(HERE))
    import tempfile

    import confine
    import torch  # all that a child needs is loaded before it locks itself

    tempfile.tempdir = os.getcwd()  # torch asks for its name, and would otherwise try to write
    torch.set_num_threads(1)
    torch.arange(2, device="meta").sum()
    (torch.ones(2, 2, requires_grad=True) @ torch.ones(2, 2)).sum().backward()
    from attn_course.exercises import runner  # noqa: F401

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while _read_word() == b"next":
        child = os.fork()
        if child == 0:
            try:
                _serve(answers, confine)
            finally:
                os._exit(0)
        os.waitpid(child, 0)


def _read_word() -> bytes:
    """The next line, and not a byte of what follows it: that is for the child."""
    line = b""
    while part := os.read(0, 1):
        if part == b"\n":
            break
        line += part
    return line


def _serve(answers: Any, confine: Any) -> None:
    """The jobs of one submission."""
    for line in sys.stdin.buffer:
        over = line == b"end\n"
        answer, data = ({}, b"") if over else _in_child(json.loads(line), confine)
        answers.write(json.dumps({**answer, "bytes": len(data)}).encode() + b"\n" + data)
        answers.flush()
        if over:
            return


def _in_child(job: dict[str, Any], confine: Any) -> tuple[dict[str, Any], bytes]:
    """Fork, and read what the child sends until it ends, or its time or room is over."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _only_keep(write)
            _work(job, write, confine)
            status = 0
        except BaseException:  # nobody is there to whom it could be said
            pass
        finally:
            os._exit(status)
    os.close(write)
    data, stopped = bytearray(), ""
    deadline = time.monotonic() + job["seconds"]
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            stopped = "time"
            break
        ready, _, _ = select.select([read], [], [], min(left, 1.0))
        if ready:
            part = os.read(read, 1 << 20)
            data += part
            if not part:
                break
            if len(data) > _MOST_BYTES:
                stopped = "output"
                break
    os.close(read)
    status = _end(child, 0 if stopped else 5)
    if not stopped and os.WIFSIGNALED(status):
        reasons: dict[int, str] = {signal.SIGXCPU: "time", signal.SIGKILL: "killed"}
        stopped = reasons.get(os.WTERMSIG(status), "crashed")
    return {"stopped": stopped}, b"" if stopped else bytes(data)


def _end(child: int, patience: float) -> int:
    """Wait for a child, then kill it. Its status."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _only_keep(write: int) -> None:
    """Close everything that the child was not meant to have: the way to the grader, other files."""
    quiet = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(quiet, standard)
    for handle in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else range(3, 256):
        if int(handle) > 2 and int(handle) != write:
            with contextlib.suppress(OSError):
                os.close(int(handle))


def _work(job: dict[str, Any], write: int, confine: Any) -> None:
    if job["do"] == "probe":
        missing = confine.confine(HERE.parent, job["seconds"], job["bytes"])
        found = {"missing": missing, "open": confine.probe(job["secret"])}
        os.write(write, json.dumps(found).encode())
        return
    from importlib import import_module

    import wire

    from attn_course.exercises import guard, runner

    exercise = next(
        t
        for t in import_module(f"attn_course.exercises.chapter{job['chapter']}").TASKS
        if t.id == job["exercise"]
    )
    if job["tables"]:
        import_module("attn_course.positional").give(job["tables"])  # the sandbox's own: numbers alone
    if job["parts"]:
        import_module("attn_course.exercises").give(job["parts"])
    import_module("attn_course.benchmark.simulated")
    confine.confine(HERE.parent, job["seconds"], job["bytes"])
    # From here on it is somebody else's code.
    candidate, fault = _candidate(job, exercise.name)
    limits = guard.Limits(_for_a_call(job["seconds"]), 0.8 * job["seconds"])
    report = runner.observe(exercise, candidate, job["seed"], limits)
    if fault is not None:
        report.observations.insert(0, runner.Observation("definition", fault=runner.see_fault(fault)))
    data = wire.pack(report)
    with os.fdopen(write, "wb") as out:
        out.write(data)


def _for_a_call(seconds: float) -> float:
    """Of the seconds for an answer, those for one call: 8 of 60, as in a notebook, and in proportion of more."""
    return max(min(8.0, 0.4 * seconds), seconds * 8 / 60)


def _candidate(job: dict[str, Any], name: str) -> tuple[Any, BaseException | None]:
    """Run the statements; what ``name`` then is, and the first thing that went wrong."""
    import types

    home = types.ModuleType("__main__")
    sys.modules["__main__"] = home
    space = home.__dict__
    space["__builtins__"] = __builtins__
    first: BaseException | None = None
    future = 0  # `from __future__ import …` holds for all that follows
    every = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
    for number, source in enumerate(job["statements"]):
        file = f"<submission, statement {number + 1}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        try:
            code = compile(source, file, "exec", future, dont_inherit=True)
            future |= code.co_flags & every
            exec(code, space)
        except BaseException as error:
            first = first or _plain(error)
    return space.get(name), first


def _plain(error: BaseException) -> BaseException:
    """The error, or, where the course's own functions were asked for, one that says so."""
    if isinstance(error, ImportError) and (error.name or "").split(".")[0] == "attn_course":
        return ImportError("the course's own functions are not there when an answer is graded: use your own")
    return error


if __name__ == "__main__":
    main()
