"""A thread in which a stranger's code may do what it likes, and global state that is put back afterwards."""

import builtins
import contextlib
import ctypes
import io
import math
import os
import random
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass
from operator import is_
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# As they were when this was loaded: a candidate that replaces them must not hold up its own guard.
_now, _sleep = time.monotonic, time.sleep


class Stop(SystemExit):
    """Raised inside code that is given up. (A ``SystemExit``, so that a thread that ends with it says nothing.)

    A loop that catches everything catches this too. So the next line that the caught code comes to, which is the
    line of its ``except``, raises once more.
    """

    def __init__(self) -> None:
        super().__init__()
        frame = sys._getframe(1) if threading.current_thread().name == _THREAD else None
        while frame is not None:
            if os.path.dirname(frame.f_code.co_filename) != os.path.dirname(__file__):
                frame.f_trace = _stop_at_line
            frame = frame.f_back
        sys.settrace(lambda *_: None)


def _stop_at_line(frame: types.FrameType, event: str, _: Any) -> Any:
    if event == "line":
        raise Stop
    return _stop_at_line


_THREAD = "check"  # the name of the thread in which candidates run


@dataclass(frozen=True)
class Limits:
    """When code is given up. Time counts between two signs of progress, compilation and imports apart."""

    idle_s: float = 8.0
    total_s: float = 40.0
    compile_s: float = 180.0
    grown_bytes: int = 2 << 30
    printed: int = 1_000_000


# ---------------------------------------------------------------------------------------------- global state


def _get_flags() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_flags(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _get_cudnn() -> tuple[bool, ...]:
    return tuple(getattr(torch.backends.cudnn, name) for name in _CUDNN)


def _set_cudnn(values: tuple[bool, ...]) -> None:
    for name, value in zip(_CUDNN, values, strict=True):
        setattr(torch.backends.cudnn, name, value)


def _get_print() -> dict[str, Any]:
    return dict(vars(torch._tensor_str.PRINT_OPTS))


def _set_print(options: dict[str, Any]) -> None:
    vars(torch._tensor_str.PRINT_OPTS).update(options)


def _set_numpy_print(options: dict[str, Any]) -> None:
    np.set_printoptions(**{k: v for k, v in options.items() if k != "override_repr"})


def _set_environ(values: dict[str, str]) -> None:
    for name in [n for n in os.environ if n not in values]:
        del os.environ[name]
    for name, value in values.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


_CUDNN = ("deterministic", "benchmark", "enabled")

# Name for the learner -> how it is read and written. Settings of a thread (grad mode, default device) need no
# restoring outside the candidate's thread, but are put right between its calls.
_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (_get_flags, _set_flags),
    "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "cudnn flags": (_get_cudnn, _set_cudnn),
    "print options": (_get_print, _set_print),
    "numpy print options": (np.get_printoptions, _set_numpy_print),
    "recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "environment": (lambda: dict(os.environ), _set_environ),
    "working directory": (os.getcwd, os.chdir),
}
_THREAD_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "grad mode": (torch.is_grad_enabled, lambda on: torch._C._set_grad_enabled(on)),
    "default device": (torch.get_default_device, lambda _: torch.set_default_device(None)),
}
_WATCHED: tuple[Any, ...] = (
    torch, F, torch.Tensor, torch.autograd, torch.linalg, nn.Module, nn.Linear, nn.Conv2d, nn.Dropout, nn.LayerNorm,
    nn.Softmax, math, np, np.random, np.linalg, random, time,
)  # fmt: skip


def _read(settings: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]) -> dict[str, Any]:
    values = {}
    for name, (get, _) in settings.items():
        with contextlib.suppress(Exception):  # a setting that this torch does not have is nobody's to change
            values[name] = get()
    return values


def _is_torchs_own(name: str, value: Any) -> bool:
    """Whether torch itself put ``value`` there (its compiler replaces a few of torch's names when it is loaded)."""
    home = getattr(value, "__module__", None) or ""
    if not isinstance(home, str):
        return False
    return home.startswith(("torch._dynamo", "torch._inductor")) or (
        home.startswith(("torch", "numpy")) and getattr(value, "__name__", None) == name
    )


class State:
    """Global settings as they were when it was made, and the way back to them."""

    def __init__(self) -> None:
        self.settings = _read(_SETTINGS)
        self.builtins = dict(builtins.__dict__)
        self.names = [(owner, dict(vars(owner))) for owner in _WATCHED]
        self.random = (random.getstate(), np.random.get_state(), torch.get_rng_state())
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def mend(self) -> list[str]:
        """Put everything back that is not a random state; return the names of what had been changed."""
        used = {**builtins.__dict__}
        builtins.__dict__.update(self.builtins)  # first: whatever follows stands on them
        mended = [f"builtins.{name}" for name, value in self.builtins.items() if used.get(name) is not value]
        for name, (get, put) in _SETTINGS.items():
            if name in self.settings:
                with contextlib.suppress(Exception):
                    if get() != self.settings[name]:
                        put(self.settings[name])
                        mended.append(name)
        for owner, before in self.names:  # last: the default dtype changes some of torch's names too
            mended += self._mend_names(owner, before)
        return sorted(mended)

    def _mend_names(self, owner: Any, before: dict[str, Any]) -> list[str]:
        """Put replaced functions of a module or class back."""
        now, mended = vars(owner), []
        if len(now) == len(before) and all(map(is_, map(now.get, before), before.values())):
            return []
        for name in {*before, *now}:
            old, new = before.get(name), now.get(name)
            if old is new or not (callable(old) or callable(new)) or isinstance(new, types.ModuleType):
                continue
            if new is not None and _is_torchs_own(name, new):
                before[name] = new
                continue
            if name in before:
                setattr(owner, name, old)
            else:
                delattr(owner, name)
            mended.append(f"{owner.__name__}.{name}")
        return mended

    def restore(self) -> None:
        self.mend()
        random.setstate(self.random[0])
        np.random.set_state(self.random[1])
        torch.set_rng_state(self.random[2])
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)


class Watch:
    """Inside the candidate's thread: a known state before each call, and what the call changed after it."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.clean = _read(_THREAD_SETTINGS)
        self.compiler: Any = None

    def allow_recompiling(self) -> None:
        """A check calls with more shapes than torch's compiler expects; at its limit it raises, or gives up."""
        config = getattr(sys.modules.get("torch._dynamo"), "config", None)
        if config is not None and self.compiler is None:
            limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
            self.compiler = config.patch(**{limit: max(64, getattr(config, limit))})
            self.compiler.__enter__()

    def close(self) -> None:
        if self.compiler is not None:
            self.compiler.__exit__(None, None, None)

    def mend(self) -> list[str]:
        changed = self.state.mend()
        for name, (get, put) in _THREAD_SETTINGS.items():
            if name in self.clean and get() != self.clean[name]:
                put(self.clean[name])
                changed.append(name)
        return changed


def seed_everything(value: int) -> None:
    """Random numbers as of ``value``, on the CPU."""
    torch.default_generator.manual_seed(value)
    random.seed(value)
    np.random.seed(value)


class _Capture(io.TextIOBase):
    """Keeps the beginning of what one thread prints; what others print goes where it went before."""

    def __init__(self, stream: Any, job: "Job") -> None:
        self.stream, self.job = stream, job

    def write(self, text: str) -> int:
        if threading.get_ident() != self.job.ident:
            return self.stream.write(text)
        job = self.job
        job.printed_chars += len(text)
        if len(job.printed) < 2000:
            job.printed += text[: 2000 - len(job.printed)]
        if job.printed_chars > job.limits.printed:
            job.overflow = True
            raise Stop
        return len(text)

    def flush(self) -> None:
        if threading.get_ident() != self.job.ident and self.stream is not None:
            self.stream.flush()

    def writable(self) -> bool:
        return True


def _no_input(*_: Any) -> str:
    raise EOFError("nothing can be typed in while a check runs")


def _no_debugger(*_: Any, **__: Any) -> None:
    raise RuntimeError("breakpoint() cannot stop inside a check")


def _leave(*_: Any, **__: Any) -> None:
    raise SystemExit


@contextlib.contextmanager
def _surroundings(job: "Job") -> Iterator[None]:
    """Streams, input, debugger, warnings and IPython's exit, for as long as a job runs."""
    streams = sys.stdout, sys.stderr, sys.stdin
    hooks = builtins.input, sys.breakpointhook
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_shell() if get_shell else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.stdout, sys.stderr = _Capture(streams[0], job), _Capture(streams[1], job)
        sys.stdin = io.StringIO()
        builtins.input, sys.breakpointhook = _no_input, _no_debugger
        if shell is not None:
            shell.ask_exit = _leave  # ``exit()`` in a notebook would end the kernel
        try:
            yield
        finally:
            sys.stdout, sys.stderr, sys.stdin = streams
            builtins.input, sys.breakpointhook = hooks
            if shell is not None:
                with contextlib.suppress(AttributeError):
                    del shell.ask_exit


# ------------------------------------------------------------------------------------------------- the thread

# A frame of one of these on the stack means that a compiler or an import is at work, which is not the candidate's
# own running time.
_COMPILERS = (
    "torch/_dynamo/convert_frame", "torch/_dynamo/__init__", "torch/_inductor/compile_fx", "torch/jit/",
    "numba/core", "<frozen importlib",
)  # fmt: skip


def _compiling(ident: int | None) -> bool:
    frame = sys._current_frames().get(ident) if ident is not None else None
    while frame is not None:
        if any(part in frame.f_code.co_filename.replace("\\", "/") for part in _COMPILERS):
            return True
        frame = frame.f_back
    return False


def _resident_bytes() -> int:
    """Memory of this process, 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0


def _start(worker: threading.Thread) -> None:
    """Start a thread with room for a deep recursion."""
    size = threading.stack_size()
    with contextlib.suppress(ValueError, RuntimeError):
        threading.stack_size(64 << 20)
    try:
        worker.start()
    finally:
        threading.stack_size(size)


class Job:
    """Code in a thread of its own: fresh grad mode and default device, limits, and a way to end it."""

    def __init__(self, work: Callable[["Job", Watch], None], limits: Limits) -> None:
        self.work, self.limits = work, limits
        self.ident: int | None = None
        self.beat = _now()
        self.printed, self.printed_chars, self.overflow = "", 0, False
        self.stopped: str | None = None  # "time", "memory" or "output"
        self.left = False  # whether the work is over, one way or another
        self.failure: BaseException | None = None  # of ``work`` itself: a fault of ours

    def progress(self) -> None:
        """Say that something was finished; what was printed is forgotten."""
        self.beat = _now()
        self.printed, self.printed_chars = "", 0

    def _thread(self, state: State) -> None:
        for _ in range(3):  # a ``Stop`` that was on its way when the work ended ends here
            try:
                if not self.left:
                    self._main(state)
                sys.settrace(None)
                _sleep(0.01 if self.stopped else 0)
            except Stop:
                self.left = True

    def _main(self, state: State) -> None:
        self.ident = threading.get_ident()
        watch = Watch(state)
        try:
            self.work(self, watch)
        except Stop:
            self.left = True
        except BaseException as error:
            self.failure = error
        finally:
            self.left = True
            watch.close()

    def run(self) -> None:
        """Do the work, within the limits, and put everything back. An interrupt from the keyboard passes through."""
        before = State()
        try:
            torch.set_default_dtype(torch.float32)
            with contextlib.suppress(RuntimeError):  # where the newer switches of torch are in use
                torch.set_float32_matmul_precision("highest")
            with _surroundings(self):
                inside = State()
                inherit = copy_context().run  # settings of torch's compiler, IPython's cell
                worker = threading.Thread(
                    target=inherit, args=(self._thread, inside), name=_THREAD, daemon=True
                )
                try:
                    _start(worker)
                    self._wait(worker)
                finally:
                    self._end(worker)
                    inside.mend()
        finally:
            before.restore()
        if self.failure is not None:
            raise self.failure

    def _wait(self, worker: threading.Thread) -> None:
        limits, base = self.limits, _resident_bytes()
        start = last = _now()
        compiled = 0.0
        while True:
            worker.join(0.05)
            if not worker.is_alive():
                break
            now = _now()
            if compiled < limits.compile_s and _compiling(self.ident):
                compiled += now - last
                start, self.beat = start + now - last, self.beat + now - last
            last = now
            if now - self.beat > limits.idle_s or now - start > limits.total_s:
                self.stopped = "time"
            elif base and _resident_bytes() - base > limits.grown_bytes:
                self.stopped = "memory"
            elif self.overflow:
                self.stopped = "output"
            if self.stopped:
                return
        if self.overflow:
            self.stopped = "output"

    def _end(self, worker: threading.Thread, seconds: float = 1.0) -> None:
        """Raise ``Stop`` in the worker until it ends; what sits in native code meets it on its return.

        The short switch interval is what ends a loop that catches everything: sooner or later the exception falls
        between two of its ``try`` blocks.
        """
        if not worker.is_alive():
            return
        raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
        interval, deadline = sys.getswitchinterval(), _now() + seconds
        sys.setswitchinterval(1e-5)
        try:
            while not self.left and self.ident is not None and _now() < deadline:
                raise_in(ctypes.c_ulong(self.ident), ctypes.py_object(Stop))
                worker.join(0.0002)
        finally:
            sys.setswitchinterval(interval)
        worker.join(0.1 if self.left else 0)
