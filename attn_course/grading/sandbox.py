"""The grader's side of the sandbox: makes a folder with the runner alone, starts it, sends jobs, reads bytes.

Nothing that a submission's process sends is run or trusted: `wire.unpack` takes it apart, the judge judges it here.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_course.exercises import get, judge
from attn_course.exercises.runner import Report
from attn_course.exercises.task import Task, make_inputs

from . import confine, wire

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent

# What stands in the sandbox's attn_course in place of the real one.
_EXERCISES = '''"""In the sandbox nothing is checked; `get(id).use(answer)` is what was given, or the answer itself."""

_given = {}


def give(sources):
    """The course's functions, for the exercises that the present one rests on."""
    import math

    import torch

    for name, (function, source) in sources.items():
        space = {"math": math, "torch": torch}
        exec(source, space)
        _given[name] = space[function]


class _Exercise:
    def __init__(self, name):
        self.id = name

    def use(self, candidate=None):
        return _given.get(self.id, candidate)

    def check(self, candidate=None, **_):
        return None

    @property
    def reference(self):
        raise RuntimeError("the course's own functions are not there when an answer is graded: use your own")


def get(name):
    return _Exercise(name)
'''
_POSITIONAL = '''"""In the sandbox: the tables that a case needs, as numbers, for that exercise alone."""

import torch

_tables = {}


def give(tables):
    for width, rows in tables.items():
        _tables[int(width)] = torch.tensor(rows, dtype=torch.float32)


def sinusoidal_encoding(max_len, d_model):
    return _tables[d_model][:max_len]
'''
_TRAINING = '''"""In the sandbox: what `machine.introduce` asks for in a chapter's first cell."""

import torch


def best_device():
    return torch.device("cpu")
'''


class SandboxError(RuntimeError):
    """The sandbox did not start, or protects less than it must."""


@dataclass(frozen=True)
class Allowance:
    """What one answer may use: seconds on the clock, bytes beyond torch itself."""

    seconds: float = 60.0
    bytes: int = 2 << 30


@dataclass(frozen=True)
class Outcome:
    """What one answer did: a report, or why there is none.

    ``stopped`` is "time", "output", "killed" or "crashed" (by the sandbox or the kernel), "died" (it ended without a
    report) or "forged" (what it sent is no report).
    """

    report: Report | None
    stopped: str = ""
    message: str = ""


class Sandbox:
    """A process that runs answers, each in a locked child.

    Args:
        allowance: of each answer.
        weak: start although something essential is missing.

    Raises:
        SandboxError: a protection is missing (or was tried and found open), and ``weak`` was not given.
    """

    def __init__(self, allowance: Allowance | None = None, *, weak: bool = False) -> None:
        self.allowance = allowance or Allowance()
        self.folder = Path(tempfile.mkdtemp(prefix="attn-grading-"))
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self._fill()
            self._start()
            self.missing = self._probe()
            if self.missing and not weak:
                told = "; ".join(f"{name}: {why}" for name, why in sorted(self.missing.items()))
                raise SandboxError(f"this machine cannot lock a submission in ({told})")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and all that it started, and remove its folder."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def fresh(self) -> None:
        """Take another process for the next submission: nothing of the last one is in its memory."""
        assert self.process is not None and self.process.stdin is not None
        try:
            self.process.stdin.write(b"end\n")
            self.process.stdin.flush()
            self._read_line(time.monotonic() + 10.0)
            self.process.stdin.write(b"next\n")
        except (OSError, ValueError, TimeoutError):
            self._restart()

    def observe(self, task: Task, statements: list[str], seed: int) -> Outcome:
        """Run ``statements`` and then the cases of ``task`` on what they define."""
        job = {
            "do": "observe",
            "chapter": task.chapter,
            "exercise": task.id,
            "seed": seed,
            "statements": statements,
        }
        answer, data = self._ask({**job, "tables": _tables(task, seed), "parts": _parts(task)})
        if answer["stopped"]:
            return Outcome(None, answer["stopped"])
        if not data:
            return Outcome(None, "died", "its process ended without a report")
        try:
            return Outcome(wire.unpack(data))
        except wire.Forged as error:
            return Outcome(None, "forged", str(error))

    def _fill(self) -> None:
        """The folder: the runner and the tasks; neither judge nor answers."""
        code, home = self.folder / "code", self.folder / "code" / "attn_course"
        for folder in (home / "exercises", home / "benchmark", self.folder / "empty"):
            folder.mkdir(parents=True)
        for name in ("inmate.py", "confine.py", "wire.py"):
            shutil.copy(HERE / name, code / name)
        for name in ("task.py", "guard.py", "attempt.py", "runner.py"):
            shutil.copy(PACKAGE / "exercises" / name, home / "exercises" / name)
        for path in (PACKAGE / "exercises").glob("chapter*.py"):
            if path.stem.removeprefix("chapter").isdigit():
                shutil.copy(path, home / "exercises" / path.name)
        shutil.copy(PACKAGE / "benchmark" / "simulated.py", home / "benchmark" / "simulated.py")
        shutil.copy(PACKAGE / "machine.py", home / "machine.py")
        (home / "benchmark" / "__init__.py").write_text("")
        (home / "__init__.py").write_text("")
        (home / "exercises" / "__init__.py").write_text(_EXERCISES)
        (home / "positional.py").write_text(_POSITIONAL)
        (home / "training.py").write_text(_TRAINING)

    def _start(self) -> None:
        environment = {
            "PATH": "",
            "HOME": str(self.folder / "empty"),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "empty"),  # it is there, so nobody has to make it
            # torch.compile runs what it is given as it is: a compiler would be another process.
            "TORCHDYNAMO_DISABLE": "1",
        }
        for name in ("LD_LIBRARY_PATH", "SYSTEMROOT"):  # without which some Pythons do not start
            if name in os.environ:
                environment[name] = os.environ[name]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(self.folder / "code" / "inmate.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
            cwd=self.folder / "empty", start_new_session=True,
        )  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(b"next\n")

    def _probe(self) -> dict[str, str]:
        """What is not protected: told by the lock, or found open by trying."""
        answer, data = self._ask({"do": "probe", "secret": judge.__file__}, patience=120.0)
        if answer["stopped"] or not data:
            raise SandboxError(f"the sandbox does not start ({answer['stopped'] or 'no answer'})")
        found = json.loads(data)
        return {**found["open"], **found["missing"]}

    def _ask(self, job: dict[str, Any], patience: float = 30.0) -> tuple[dict[str, Any], bytes]:
        """Send a job and read the answer; a process that does not answer is replaced."""
        if self.process is None or self.process.poll() is not None:
            self._restart()
        assert self.process is not None and self.process.stdin is not None
        allowance = {"seconds": self.allowance.seconds, "bytes": self.allowance.bytes}
        deadline = time.monotonic() + self.allowance.seconds + patience
        try:
            self.process.stdin.write(json.dumps({**job, **allowance}).encode() + b"\n")
            self.process.stdin.flush()
            answer = json.loads(self._read_line(deadline))
            return answer, self._read(answer["bytes"], deadline)
        except (OSError, ValueError, KeyError, TimeoutError):
            self._restart()
            return {"stopped": "died"}, b""

    def _restart(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._start()

    def _read_line(self, deadline: float) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            line += self._read(1, deadline)
            if len(line) > 4096:
                raise ValueError("an answer without end")
        return line

    def _read(self, count: int, deadline: float) -> bytes:
        assert self.process is not None and self.process.stdout is not None
        if not 0 <= count <= wire.MOST_BYTES:
            raise ValueError(f"an answer of {count} bytes")
        data, handle = bytearray(), self.process.stdout.fileno()
        while len(data) < count:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([handle], [], [], left)[0]:
                raise TimeoutError("no answer")
            part = os.read(handle, count - len(data))
            if not part:
                raise OSError("the process ended")
            data += part
        return bytes(data)


def _tables(task: Task, seed: int) -> dict[str, list[list[float]]]:
    """The encodings that the cases of shift-matrix need, as numbers: the function that makes them is an answer."""
    if task.id != "shift-matrix":
        return {}
    from attn_course.exercises.chapter2 import _PLACES
    from attn_course.positional import sinusoidal_encoding

    widths = {make_inputs(case, seed)["d_model"] for case in task.cases}
    return {str(width): sinusoidal_encoding(max(_PLACES) + 1, width).tolist() for width in sorted(widths)}


def _parts(task: Task) -> dict[str, tuple[str, str]]:
    """Exercise -> name and source of the course's function, for what a chapter hands to everybody, solved or not.

    They go to this one answer's process; in that of the exercise itself they are not.
    """
    solutions = {name: judge.answer(get(name).task).solution for name in task.rests_on}
    return {name: (one.__name__, inspect.getsource(one)) for name, one in solutions.items()}


def protections() -> dict[str, str]:
    """What this machine can lock, in words, for `attn-course doctor`."""
    if sys.platform != "linux":
        return {"grading": f"no sandbox on {sys.platform}: use a container"}
    version = confine.landlock_version()
    try:
        with Sandbox(Allowance(seconds=60), weak=True) as sandbox:
            missing = sandbox.missing
    except SandboxError as error:
        return {"grading": str(error)}
    told = "; ".join(f"{name}: {why}" for name, why in sorted(missing.items()))
    return {
        "grading": f"weak sandbox: {told}" if told else f"sandbox works (Landlock {version}, seccomp, limits)"
    }


__all__ = ["Allowance", "Outcome", "Sandbox", "SandboxError", "get", "protections"]
