"""A report as bytes and back: JSON for the structure, raw numbers for the arrays. No pickle, nothing that runs.

It stands on both sides. What comes back from a submission's process may be forged: `unpack` takes nothing on trust.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np

from attn_course.exercises.runner import Fault, Observation, Report, Seen

MOST_BYTES = 64 << 20
_MOST_ELEMENTS = 1_000_000
_MOST_TEXT = 4000
_MOST_OBSERVATIONS = 200
_DTYPES = {
    name: np.dtype(name)
    for name in (
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
        "float64", "complex64", "complex128",
    )
}  # fmt: skip
_KINDS = {"tensor", "array", "none", "bool", "int", "float", "str", "tuple", "list", "dict", "other"}


class Forged(ValueError):
    """A report that no runner of ours has written."""


def pack(report: Report) -> bytes:
    """The bytes of a report."""
    arrays: list[bytes] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            data = np.ascontiguousarray(value)
            if str(data.dtype) not in _DTYPES:
                return None
            arrays.append(data.tobytes())
            return {"dtype": str(data.dtype), "shape": list(value.shape), "bytes": data.nbytes}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, tuple | list):
            return [plain(one) for one in value]
        if isinstance(value, dict):
            return {str(key): plain(one) for key, one in value.items()}
        if type(value) is float and not math.isfinite(value):
            return str(value)
        return value

    header = json.dumps(plain(report)).encode()
    return len(header).to_bytes(8, "big") + header + b"".join(arrays)


def unpack(data: bytes) -> Report:
    """The report in ``data``.

    Raises:
        Forged: it is not one, or holds more than a report can hold.
    """
    try:
        if len(data) > MOST_BYTES:
            raise Forged(f"a report of {len(data)} bytes, at most {MOST_BYTES}")
        length = int.from_bytes(data[:8], "big")
        if not 0 < length <= len(data) - 8:
            raise Forged(f"a header of {length} bytes in a report of {len(data)}")
        reader = _Reader(memoryview(data)[8 + length :])
        report = reader.report(json.loads(data[8 : 8 + length].decode(), parse_constant=_no_constant))
        if reader.at != len(reader.rest):
            raise Forged(f"{len(reader.rest) - reader.at} bytes that belong to no array")
        return report
    except Forged:
        raise
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        OverflowError,
        MemoryError,
    ) as error:
        raise Forged(f"{type(error).__name__}: {str(error)[:200]}") from None


def _no_constant(name: str) -> None:
    raise Forged(f"{name} is no JSON")


class _Reader:
    def __init__(self, rest: memoryview) -> None:
        self.rest, self.at, self.items = rest, 0, 0

    def report(self, value: Any) -> Report:
        value = self.fields(value, Report)
        observations = self.list(value["observations"], _MOST_OBSERVATIONS)
        return Report(
            self.text(value["candidate"]),
            self.flag(value["untouched"]),
            [self.observation(o) for o in observations],
        )

    def observation(self, value: Any) -> Observation:
        value = self.fields(value, Observation)
        gradients, memory = value["gradients"], value["memory"]
        if memory is not None:
            memory = {self.text(k): self.count(v) for k, v in self.dict(memory).items()}
        return Observation(
            case=self.text(value["case"]),
            result=self.seen(value["result"]),
            fault=self.fault(value["fault"]),
            stopped=None if value["stopped"] is None else self.text(value["stopped"]),
            wrote_into=tuple(self.text(v) for v in self.list(value["wrote_into"])),
            settings=tuple(self.text(v) for v in self.list(value["settings"])),
            again=self.seen(value["again"]),
            gradients=None
            if gradients is None
            else {self.text(k): self.something(v) for k, v in self.dict(gradients).items()},
            gradient_fault=self.fault(value["gradient_fault"]),
            printed=self.text(value["printed"], cut=True),
            memory=memory,
        )

    def something(self, value: Any) -> Seen:
        seen = self.seen(value)
        if seen is None:
            raise Forged("a value is missing")
        return seen

    def seen(self, value: Any) -> Seen | None:
        if value is None:
            return None
        self.items += 1
        if self.items > 100_000:
            raise Forged("more than 100,000 values")
        value = self.fields(value, Seen)
        kind = self.text(value["kind"])
        if kind not in _KINDS:
            raise Forged(f"a value of the kind {kind!r}")
        shape = tuple(self.count(v) for v in self.list(value["shape"], 64))
        data = self.array(value["data"])
        if data is not None and (kind not in ("tensor", "array") or data.shape != shape):
            raise Forged(f"an array {data.shape} for a {kind} {shape}")
        return Seen(
            kind=kind,
            type=self.text(value["type"]),
            dtype=self.text(value["dtype"]),
            shape=shape,
            device=self.text(value["device"]),
            data=data,
            value=self.scalar(kind, value["value"]),
            items=tuple(self.something(v) for v in self.list(value["items"])),
            keys=tuple(self.text(v) for v in self.list(value["keys"])),
            requires_grad=self.flag(value["requires_grad"]),
        )

    def scalar(self, kind: str, value: Any) -> bool | int | float | str | None:
        if kind == "float" and value in ("nan", "inf", "-inf"):
            return float(value)
        wanted = {"bool": bool, "int": int, "float": float, "str": str}.get(kind)
        if wanted is None:
            if value is not None:
                raise Forged(f"a value beside a {kind}")
            return None
        if type(value) is not wanted:
            raise Forged(f"a {kind} that is a {type(value).__name__}")
        checked: Any = value
        return self.text(checked) if wanted is str else checked

    def array(self, value: Any) -> np.ndarray | None:
        if value is None:
            return None
        dtype = _DTYPES[self.text(self.dict(value)["dtype"])]
        shape = tuple(self.count(v) for v in self.list(value["shape"], 64))
        elements = math.prod(shape)
        if elements > _MOST_ELEMENTS or value["bytes"] != elements * dtype.itemsize:
            raise Forged(f"an array {shape} of {dtype} in {value['bytes']} bytes")
        part = self.rest[self.at : self.at + elements * dtype.itemsize]
        if len(part) != elements * dtype.itemsize:
            raise Forged("an array that the report does not hold")
        self.at += len(part)
        array = np.frombuffer(part, dtype).reshape(shape)
        if dtype.kind == "b" and (np.frombuffer(part, np.uint8) > 1).any():
            raise Forged("a bool that is neither")
        array.flags.writeable = False
        return array

    def fault(self, value: Any) -> Fault | None:
        if value is None:
            return None
        value = self.fields(value, Fault)
        bases = tuple(self.text(v) for v in self.list(value["bases"], 100))
        return Fault(self.text(value["type"]), bases, self.text(value["text"]), self.text(value["line"]))

    @staticmethod
    def fields(value: Any, kind: type) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(kind)}
        if type(value) is not dict or set(value) != names:
            raise Forged(f"not the fields of a {kind.__name__}")
        return value

    @staticmethod
    def dict(value: Any) -> dict[str, Any]:
        if type(value) is not dict or len(value) > 1000:
            raise Forged("not a small dictionary")
        return value

    @staticmethod
    def list(value: Any, most: int = 1000) -> list[Any]:
        if type(value) is not list or len(value) > most:
            raise Forged(f"not a list of at most {most}")
        return value

    @staticmethod
    def text(value: Any, cut: bool = False) -> str:
        if type(value) is not str or (len(value) > _MOST_TEXT and not cut):
            raise Forged("not a short text")
        return value[:_MOST_TEXT]

    @staticmethod
    def flag(value: Any) -> bool:
        if type(value) is not bool:
            raise Forged("not true or false")
        return value

    @staticmethod
    def count(value: Any) -> int:
        if type(value) is not int or not 0 <= value < 2**53:
            raise Forged("not a count")
        return value
