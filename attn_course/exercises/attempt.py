"""Does a candidate's body do any work, or is it the stub as it was handed out?"""

import dis
import functools
import inspect
import types
from typing import Any

from torch import nn

# Instructions that a body without work may hold: it loads nothing but None, ..., a text or NotImplementedError.
_IDLE = {
    "RESUME",
    "NOP",
    "CACHE",
    "PRECALL",
    "PUSH_NULL",
    "POP_TOP",
    "COPY_FREE_VARS",
    "MAKE_CELL",
    "NOT_TAKEN",
}
_LOADS = ("LOAD_CONST", "RETURN_CONST", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_COMMON_CONSTANT")
_ENDS = ("RETURN_VALUE", "RAISE_VARARGS", "CALL", "CALL_FUNCTION")


def _does_nothing(code: types.CodeType) -> bool:
    for step in dis.get_instructions(code):
        if step.opname in _IDLE or step.opname in _ENDS:
            continue
        if step.opname not in _LOADS:
            return False
        value = step.argval
        idle = value is None or value is ... or value is NotImplementedError
        if not idle and not isinstance(value, str):
            return False
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and value != "NotImplementedError":
            return False
    return True


def _steps(code: types.CodeType) -> list[tuple[str, str]]:
    return [(step.opname, step.argrepr) for step in dis.get_instructions(code)]


def _static(value: Any, name: str) -> Any:
    """An attribute without running anybody's ``__getattr__``."""
    return inspect.getattr_static(value, name, None)


def body(candidate: Any) -> types.CodeType | None:
    """The code that runs when ``candidate`` is called; of a class, its ``forward``. ``None``: no Python code."""
    for _ in range(50):
        wrapped = _static(candidate, "__wrapped__")
        if isinstance(candidate, functools.partial):
            candidate = candidate.func
        elif isinstance(candidate, types.MethodType):
            candidate = candidate.__func__
        elif wrapped is not None and not isinstance(candidate, type):
            candidate = wrapped
        elif isinstance(candidate, types.FunctionType):
            return candidate.__code__
        elif isinstance(candidate, nn.Module) and "_orig_mod" in candidate.__dict__.get("_modules", {}):
            candidate = candidate._modules["_orig_mod"]
        else:
            kind = candidate if isinstance(candidate, type) else type(candidate)
            forward = _static(kind, "forward")
            if forward is None or forward is _static(nn.Module, "forward"):
                forward = _static(kind, "__call__")
                if forward is _static(nn.Module, "__call__"):
                    return None
            if not isinstance(forward, types.FunctionType):
                return None
            candidate = forward
    return None


def _stub_body(stub: str, name: str) -> types.CodeType | None:
    codes = [compile(stub, "<stub>", "exec")]
    while codes:
        code = codes.pop()
        if code.co_name == name:
            return code
        codes.extend(c for c in code.co_consts if isinstance(c, types.CodeType))
    return None


def is_untouched(candidate: Any, stub: str, name: str) -> bool:
    """Whether nothing was done yet: no work in the body, or the very body of the stub.

    ``stub`` is source text, ``name`` the function in it that the learner fills (``forward`` of a class). A class
    without any ``forward`` has not been begun either.
    """
    code = body(candidate)
    if code is None:
        return isinstance(candidate, type) and _static(candidate, "forward") in (
            None,
            _static(nn.Module, "forward"),
        )
    if _does_nothing(code):
        return True
    given = _stub_body(stub, name)
    return given is not None and _steps(given) == _steps(code)
