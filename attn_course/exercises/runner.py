"""Calls a candidate and writes down what it saw: arrays, dtypes, shapes, errors, what changed. Judges nothing.

Everything in a ``Report`` is plain (text, numbers, tuples, numpy arrays), so that it can travel from a process in
which neither judge nor solutions are.
"""

import copy
import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from .attempt import is_untouched
from .guard import Job, Limits, Stop, Watch, seed_everything
from .task import Case, Inputs, Task, make_inputs

_MOST_ELEMENTS = 1_000_000  # of a result: more is described, not copied
_MOST_ITEMS = 1000


@dataclass(frozen=True)
class Seen:
    """A value, as plain data. ``kind``: tensor, array, none, bool, int, float, str, tuple, list, dict or other."""

    kind: str
    type: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    device: str = ""
    data: np.ndarray | None = None  # None: not kept (too large, no data, not strided)
    value: bool | int | float | str | None = None
    items: tuple["Seen", ...] = ()
    keys: tuple[str, ...] = ()
    requires_grad: bool = False


@dataclass(frozen=True)
class Fault:
    """An exception: its type, its ancestors' names, its text, and the line of the candidate that it came from."""

    type: str
    bases: tuple[str, ...]
    text: str
    line: str = ""


@dataclass
class Observation:
    """What one call did."""

    case: str
    result: Seen | None = None
    fault: Fault | None = None
    stopped: str | None = None  # given up: "time", "memory" or "output"
    wrote_into: tuple[str, ...] = ()  # names of the arguments that were changed
    settings: tuple[str, ...] = ()  # global settings that were changed, and functions that were replaced
    again: Seen | None = None  # the result of a second call, with another random state
    gradients: dict[str, Seen] | None = None  # None: not looked at
    gradient_fault: Fault | None = None
    printed: str = ""
    memory: dict[str, int] | None = None


@dataclass
class Report:
    """All that is known of a candidate: the only thing that a judge gets."""

    candidate: str  # what kind of thing it is: "function", "class", "none", or the type of something else
    untouched: bool = False
    observations: list[Observation] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------- plain values


def _type_name(value: Any) -> str:
    kind = type(value)
    home = kind.__module__
    return (
        kind.__qualname__ if home in ("builtins", "__main__") else f"{home.split('.')[0]}.{kind.__qualname__}"
    )


def _see_tensor(value: torch.Tensor) -> Seen:
    with torch._C.DisableTorchFunctionSubclass():
        tensor = value.detach()
        dtype, device = str(tensor.dtype).removeprefix("torch."), tensor.device.type
        data = None
        plain = tensor.layout == torch.strided and not tensor.is_quantized
        if plain and device != "meta" and tensor.numel() <= _MOST_ELEMENTS:
            if tensor.dtype in (torch.bfloat16, *_FLOAT8):
                tensor = tensor.float()
            data = tensor.resolve_conj().resolve_neg().cpu().numpy().copy()
            data.flags.writeable = False
        name = "Tensor" if plain else "sparse or quantized Tensor"
        return Seen(
            "tensor", name, dtype, tuple(tensor.shape), device, data, requires_grad=value.requires_grad
        )


_FLOAT8 = tuple(getattr(torch, n) for n in dir(torch) if n.startswith("float8_"))


def see(value: Any, depth: int = 0, room: Iterator[int] | None = None) -> Seen:
    """``value`` as plain data. Calls nothing of its own: no ``__eq__``, no ``__len__``, no ``__repr__``.

    ``room`` runs out after as many items as are kept, however they are nested: a list may hold itself.
    """
    kind = type(value)
    room = iter(range(_MOST_ITEMS)) if room is None else room
    try:
        if issubclass(kind, torch.Tensor):
            return _see_tensor(value)
        if issubclass(kind, np.ndarray):
            array = (
                np.array(value, subok=False)
                if value.size <= _MOST_ELEMENTS and value.dtype != object
                else None
            )
            return Seen("array", "numpy.ndarray", str(value.dtype), tuple(value.shape), "cpu", array)
        if value is None:
            return Seen("none", "None")
        if kind in (bool, int, float, str):
            text = value[:1000] if kind is str else value
            return Seen(kind.__name__, kind.__name__, value=text)
        if depth < 4 and issubclass(kind, tuple | list):
            base = tuple if issubclass(kind, tuple) else list
            some = [v for v, _ in zip(base.__iter__(value), room)]  # noqa: B905
            return Seen(base.__name__, _type_name(value), items=tuple(see(v, depth + 1, room) for v in some))
        if depth < 4 and issubclass(kind, dict):
            pairs = [pair for pair, _ in zip(dict.items(value), room)]  # noqa: B905
            keys = tuple(k if type(k) is str else _type_name(k) for k, _ in pairs)
            items = tuple(see(v, depth + 1, room) for _, v in pairs)
            return Seen("dict", _type_name(value), keys=keys, items=items)
    except Exception:
        return Seen("other", _type_name(value))
    if inspect.iscoroutine(value):
        value.close()
    return Seen("other", "Ellipsis" if value is ... else _type_name(value))


def see_fault(error: BaseException) -> Fault:
    """``error`` as plain data, with the last of its lines that is neither torch's nor ours."""
    try:
        text = str(error)
    except BaseException:
        text = ""
    text = re.sub(r"\b0x[0-9a-fA-F]{6,}\b", "0x…", text.strip())  # an address; "30x7" is a shape
    line = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename.replace("\\", "/")
        if not any(part in name for part in ("/lib/python3", "/torch/", "attn_course/exercises/", "<frozen")):
            line = linecache.getline(frame.f_code.co_filename, number).strip() or line
    return Fault(type(error).__name__, tuple(k.__name__ for k in type(error).__mro__), text[:600], line[:200])


def is_placeholder(fault: Fault) -> bool:
    """Whether this is a ``raise NotImplementedError`` that somebody wrote, not one of torch's ('"tril" not
    implemented for 'Half''), which the line that called torch would show."""
    if fault.type != "NotImplementedError" or "not implemented for" in fault.text:
        return False
    return not fault.line or "NotImplementedError" in fault.line


# ------------------------------------------------------------------------------------------------------ one call


class _Memory(TorchDispatchMode):
    """Counts what torch allocates: live bytes at the peak, elements of the largest storage."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        tensors = [v for v in inputs.values() if isinstance(v, torch.Tensor)]
        self.given = {t.untyped_storage()._cdata for t in tensors}
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak_bytes = self.largest_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                storage = tensor.untyped_storage()
                if storage._cdata not in self.given and storage._cdata not in self.live:
                    self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                    elements = storage.nbytes() // tensor.element_size()
                    self.largest_elements = max(self.largest_elements, elements)
        self.live = {key: pair for key, pair in self.live.items() if not pair[0].expired()}
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self.live.values()))
        return result


def by_position(candidate: Any, inputs: Inputs, optional: tuple[str, ...]) -> Any:
    """Call with every argument by position, but an optional one by name where that parameter has another place.

    ``f(q, k, v, scale=None, mask=None)`` and ``f(q, k, v, *rest, mask=None)`` are as right as the stub's order.
    """
    try:
        signature = inspect.signature(candidate)
    except (TypeError, ValueError):
        return candidate(*inputs.values())
    named = {name: value for name, value in inputs.items() if name in optional}
    required = [value for name, value in inputs.items() if name not in named]
    places = list(signature.parameters)
    by_name = any(
        name in places
        and signature.parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY
        and places.index(name) != place
        for place, name in enumerate(inputs)
        if name in named
    )
    if not by_name:
        try:
            signature.bind(*inputs.values())
        except TypeError:
            by_name = True  # **kwargs, or a mistake whose message should name the argument
    if by_name:
        try:
            signature.bind(*required, **named)
        except TypeError:
            return candidate(*inputs.values())
        return candidate(*required, **named)
    return candidate(*inputs.values())


def _copies(inputs: Inputs) -> Inputs:
    """Copies of the arguments that can be written into: tensors, lists and dicts of plain values."""
    kept: Inputs = {}
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor):
            kept[name] = value.detach().clone()
        elif isinstance(value, list | dict):
            kept[name] = copy.deepcopy(value)
    return kept


def _changed(inputs: Inputs, kept: Inputs) -> tuple[str, ...]:
    """The names of the arguments that are no longer what they were."""
    names = []
    for name, before in kept.items():
        now = inputs[name]
        if isinstance(before, torch.Tensor):
            same = (
                now.shape == before.shape and now.dtype == before.dtype and torch.equal(now.detach(), before)
            )
        else:
            same = now == before
        if not same:
            names.append(name)
    return tuple(names)


def _first_tensor(result: Any) -> torch.Tensor | None:
    for _ in range(4):  # a list may hold itself
        base = tuple if issubclass(type(result), tuple) else list
        if issubclass(type(result), base) and base.__len__(result):
            result = base.__getitem__(result, 0)
    usable = issubclass(type(result), torch.Tensor) and result.is_floating_point()
    return result if usable and result.numel() <= _MOST_ELEMENTS else None


def probe(shape: tuple[int, ...]) -> torch.Tensor:
    """Fixed weights of a result's numbers, all different: their weighted sum is what is differentiated."""
    return torch.cos(torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.float64)).reshape(shape)


def _gradients(result: Any, leaves: dict[str, torch.Tensor]) -> dict[str, Seen]:
    output = _first_tensor(result)
    if output is None or not output.requires_grad:
        return {name: see(None) for name in leaves}
    total = (output * probe(tuple(output.shape)).to(output)).sum()
    reached = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    grads = torch.autograd.grad(total, list(reached.values()), allow_unused=True)
    return {name: see(None) for name in leaves} | dict(zip(reached, map(see, grads), strict=True))


Call = Callable[[Inputs, dict[str, torch.Tensor]], Any]


def _call(call: Call, inputs: Inputs, leaves: dict[str, torch.Tensor]) -> tuple[Any, Fault | None]:
    try:
        return call(inputs, leaves), None
    except BaseException as error:
        if type(error) is Stop:
            raise
        return None, see_fault(error)


def _observe(call: Call, case: Case, seed: int, watch: Watch | None) -> Observation:
    seen = Observation(case.name)
    inputs = make_inputs(case, seed)
    leaves: dict[str, torch.Tensor] = {}
    if case.gradients:
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point() and name != "mask":
                leaves[name] = value.requires_grad_()
    given = _copies(inputs) if watch is not None else {}
    seed_everything(seed)
    if watch is not None:
        watch.allow_recompiling()
    result, seen.fault = _call(call, inputs, leaves)
    if watch is not None:
        seen.settings = tuple(watch.mend())
        seen.wrote_into = _changed(inputs, given)
    if seen.fault is not None:
        return seen
    seen.result = see(result)
    if case.gradients:
        try:
            seen.gradients = _gradients(result, leaves)
        except BaseException as error:  # a backward pass may run the candidate's code, and that may exit
            if type(error) is Stop:
                raise
            seen.gradient_fault = see_fault(error)
        if watch is not None:
            seen.settings = tuple(sorted({*seen.settings, *watch.mend()}))
    if case.twice:
        seed_everything(seed + 1)
        result, seen.fault = _call(call, make_inputs(case, seed), {})
        seen.again = see(result)
    if case.memory:
        again = make_inputs(case, seed)
        meter = _Memory(again)
        with meter:
            _call(call, again, {})
        seen.memory = {"peak_bytes": meter.peak_bytes, "largest_elements": meter.largest_elements}
    if watch is not None:
        watch.mend()
    return seen


def _kind(candidate: Any) -> str:
    if candidate is None:
        return "none"
    if isinstance(candidate, type):
        return "class"
    return "function" if callable(candidate) else _type_name(candidate)


def _calls(task: Task, candidate: Any) -> Call:
    def call(inputs: Inputs, leaves: dict[str, torch.Tensor]) -> Any:
        if task.act is not None:
            return task.act(candidate, inputs, leaves)
        return by_position(candidate, inputs, task.optional)

    return call


def observe(task: Task, candidate: Any, seed: int = 0, limits: Limits | None = None) -> Report:
    """Call ``candidate`` on every case of ``task``, within limits, and raise nothing that it raises."""
    report = Report(_kind(candidate))
    if report.candidate not in ("function", "class"):
        return report
    try:
        untouched = is_untouched(candidate, task.stub, task.filled)
    except Exception:  # an object whose attributes raise
        untouched = False
    done: list[Observation] = []
    current: list[str] = []

    def work(job: Job, watch: Watch) -> None:
        for case in task.cases:
            current[:] = [case.name]
            try:
                seen = _observe(_calls(task, candidate), case, seed, watch)
            except BaseException as error:  # an object that breaks whoever looks at it
                if type(error) is Stop:
                    raise
                seen = Observation(case.name, fault=see_fault(error))
            seen.printed = job.printed
            done.append(seen)
            job.progress()
            if untouched and _is_idle(seen):
                report.untouched = True
                break
        current.clear()

    job = Job(work, limits or Limits())
    job.run()
    report.observations = list(done)  # a thread that was given up may still hold ``done``
    if job.stopped:
        name = current[0] if current else task.cases[0].name
        report.observations.append(Observation(name, stopped=job.stopped, printed=job.printed))
    return report


def observe_own(task: Task, candidate: Any, cases: Iterable[Case], seed: int) -> Iterator[Observation]:
    """The same for the course's own code, in this thread: results alone, one case after the other."""
    for case in cases:
        yield _observe(_calls(task, candidate), case, seed, None)


def _is_idle(seen: Observation) -> bool:
    if seen.fault is not None:
        return is_placeholder(seen.fault)
    return seen.result is not None and seen.result.type in ("None", "Ellipsis")
