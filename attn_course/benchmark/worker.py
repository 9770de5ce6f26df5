"""Cases in a process of their own: what kills it or hangs it costs one row, and the next case gets a new one."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib import import_module
from typing import IO, Any

import torch

from attn_course import complexity
from attn_course.benchmark import memory
from attn_course.benchmark.peers import _LONGEST_PLAIN as LONGEST_PLAIN

ALLOCATORS = {"default": None, "huge pages": "1"}
"""A case's allocator setting -> the value of ``THP_MEM_ALLOC_ENABLE``, which torch reads once, as it starts."""

START_LIMIT_S = 300.0


class WorkerDied(RuntimeError):
    """The process ended, or was ended, before it answered."""


class Worker:
    """The side that asks: a child process that runs cases one after the other.

    Args:
        suite: the module that has the cases; see `attn_course.benchmark.suite`.
        preset: which of its presets.
        device: where the cases run.
        threads: torch's threads.
        allocator: a key of `ALLOCATORS`.

    Raises:
        WorkerDied: if the process does not start.
    """

    def __init__(
        self, suite: str, preset: str, device: str, threads: int, *, allocator: str = "default"
    ) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
        setting = ALLOCATORS[allocator]
        if setting is not None:
            environment["THP_MEM_ALLOC_ENABLE"] = setting
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment["PYTHONSAFEPATH"] = "1"
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        self._process = _start(environment, self._said)
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self.ask(START_LIMIT_S, suite=suite, preset=preset, device=device, threads=threads)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the process can be asked."""
        return self._process.poll() is None

    def ask(self, limit: float, **question: Any) -> Any:
        """Put a question, and wait for its answer no longer than `limit` seconds.

        Raises:
            WorkerDied: the process ended or did not answer in time (then it is ended). The message says which.
            RuntimeError: the process answered that it cannot.
        """
        assert self._process.stdin is not None
        until = time.monotonic() + limit
        try:
            self._process.stdin.write((json.dumps(question) + "\n").encode())
            self._process.stdin.flush()
        except (OSError, ValueError):  # it is gone, or was stopped
            raise WorkerDied(self._reason()) from None
        while True:
            try:
                line = self._answers.get(timeout=max(0.0, min(0.5, until - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= until:
                    self._kill()
                    raise WorkerDied(f"no answer within {limit:g} s: the worker was ended") from None
                if self.alive():
                    continue
                line = None
            if line is None:
                raise WorkerDied(self._reason())
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(answer["error"])
            return answer["answer"]

    def last_words(self) -> str:
        """The last line that the process wrote to its standard error."""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def stop(self) -> None:
        """End the process and whatever it started, at once."""
        self._kill()
        for stream in (self._process.stdin, self._said):
            try:
                if stream is not None:
                    stream.close()
            except OSError:  # what was not yet written has no reader any more
                pass

    def _kill(self) -> None:
        try:
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        except (ProcessLookupError, PermissionError):
            pass
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self._answers.put(line.decode())
        self._answers.put(None)

    def _reason(self) -> str:
        status = self._process.wait()
        if status >= 0:
            return f"the worker ended with status {status}"
        name = signal.Signals(-status).name
        hint = ": the system does that when memory runs out" if name == "SIGKILL" else ""
        return f"the worker was ended by {name}{hint}"


def _start(environment: dict[str, str], said: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches the parent, which ends this one with all that it started
    )


# --- In the child ------------------------------------------------------------------------------------------


def main() -> None:
    """The side that answers: questions come in on standard input, a line of JSON each, answers go out likewise."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not run into the answers
    questions: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_receive, args=(questions,), daemon=True).start()

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    start = questions.get()
    try:
        torch.set_num_threads(start["threads"])
        suite = import_module(start["suite"])
        cases = {case.name: case for case in suite.cases(start["preset"], start["device"])}
    except Exception as error:
        answer(error=_in_a_line(error))
        os._exit(1)  # the thread that reads would hold an ordinary exit up
    answer(answer="ready")
    while True:
        question = questions.get()
        try:
            if "case" in question:
                case = cases[question.pop("case")]
                answer(answer=row(suite, case, device=start["device"], **question))
            else:
                answer(answer=suite.ceilings(start["device"]))
        except Exception as error:
            answer(error=_in_a_line(error))


def _receive(questions: queue.Queue[dict[str, Any]]) -> None:
    """Pass questions on; end the process in the middle of whatever it does once nobody can want its answer."""
    for line in sys.stdin:
        questions.put(json.loads(line))
    os._exit(0)


def row(
    suite: Any, case: Any, *, device: str, seconds: float, rounds: int, ceilings: dict[str, Any] | None
) -> dict[str, Any]:
    """Run a case, unless it is predicted not to fit into the memory that is free; whatever happens is a row."""
    empty = empty_row(suite, case)
    needed, free = needed_bytes(suite, case), memory.free_bytes(device)
    if needed is not None and free is not None and needed > free:
        message = f"predicted to need {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free"
        return {**empty, "status": "too large", "message": message}
    try:
        found = suite.run_case(case, seconds=seconds, rounds=rounds, device=device, ceilings=ceilings)
        json.dumps(found, allow_nan=False)
        return found
    except Exception as error:  # run_case makes rows of the errors that it expects
        lacking = isinstance(error, MemoryError | torch.OutOfMemoryError)
        return {**empty, "status": "out of memory" if lacking else "failed", "message": _in_a_line(error)}


def empty_row(suite: Any, case: Any) -> dict[str, Any]:
    """A case's row before it is run: everything but what a run finds."""
    return {
        "case": case.name,
        "mechanism": case.mechanism,
        "mode": case.mode,
        "note": case.note,
        "sizes": dict(case.sizes),
        "dtype": case.dtype,
        "allocator": case.allocator,
        "status": "failed",
        "message": "",
        "predicted": dict(suite.predicted(case)),
        "ours": suite.OURS,
        "baseline": case.baseline,
        "peers": {},
        "absent": {},
    }


def needed_bytes(suite: Any, case: Any) -> int | None:
    """The predicted peak of a case's hungriest peer, or None if nobody predicts it.

    That is ours, or the usual form, which makes the map of every query with every key.
    """
    predicted, sizes = suite.predicted(case), dict(case.sizes)
    peaks = [predicted.get("peak_bytes") or 0]
    training = case.mode == "training"
    if case.mechanism in ("multi-head-attention", "transformer-block"):
        sizes |= {"fused": False, "cached": 0, "dtype": case.dtype}
        usual = complexity.cost(case.mechanism, **sizes)
        peaks.append((usual.peak_bytes_training if training else usual.peak_bytes) or 0)
    elif case.mechanism == "self-attention-2d":
        n = sizes["height"] * sizes["width"]
        peaks.append((3 if training else 2) * sizes["batch"] * n * n * getattr(torch, case.dtype).itemsize)
    elif case.mechanism == "sliding-window-attention":
        n, full = sizes["n"], min(sizes["n"], LONGEST_PLAIN)
        peaks.append(5 * n * n)  # the band mask of SDPA, as bool and as float32
        if case.note == "beside full attention":
            peaks.append(2 * 4 * sizes["batch"] * sizes["num_heads"] * full * full)
    return max(peaks) or None


def _in_a_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
