"""What every cost is made of: `Cost` itself, the roofline, and the checks of sizes."""

from __future__ import annotations

from dataclasses import dataclass, field

DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
SIGMOID, SOFTMAX, LAYER_NORM = 4, 5, 7  # elementwise operations for one element
FUSED_ATTENTION = "fused attention"

_FLAGS = ("fused", "is_causal", "bias", "positions")
_FROM_ZERO = ("window", "cached", "padding")


@dataclass(frozen=True)
class Hardware:
    """What a machine reaches at best: its ceilings, from a data sheet or measured.

    Attributes:
        name: what to call it.
        peak_flops: FLOP/s of large matrix products.
        bandwidth: bytes/s from and to memory, both directions together.
    """

    name: str
    peak_flops: float
    bandwidth: float

    def __post_init__(self) -> None:
        for ceiling in ("peak_flops", "bandwidth"):
            if not getattr(self, ceiling) > 0:
                raise ValueError(f"{ceiling} must be above 0, got {getattr(self, ceiling)!r}")


@dataclass(frozen=True)
class Roofline:
    """The least time that a mechanism can take on a machine.

    Attributes:
        seconds: the larger of the two below.
        bound: which one it is, `"compute"` or `"bandwidth"`.
        compute_s: FLOPs by the machine's peak.
        bandwidth_s: bytes moved by its bandwidth.
    """

    seconds: float
    bound: str
    compute_s: float
    bandwidth_s: float


@dataclass(frozen=True)
class Cost:
    """The price of one forward pass, as `cost` returns it; what ends in `_training` has the backward pass too.

    Attributes:
        mechanism: its name, one of `mechanisms()`.
        sizes: the sizes that it was counted for, defaults filled in.
        terms: FLOPs by step; they add up to `flops`.
        elementwise_terms: elementwise operations by step; they add up to `elementwise`.
        parameters: how many numbers are learnt.
        moved_terms: least bytes to and from memory by step, each operand read once and each result written
            once; they add up to `bytes_moved`.
        peak_bytes: most bytes alive at one moment in inference, on top of the inputs and the parameters, what
            is returned included; None for a mechanism whose memory is not modelled.
        peak_bytes_training: the same in one forward and backward pass without dropout, the gradients of the
            inputs and of the parameters included, the gradient of the output not.
        table_bytes: bytes of what is kept or made beside parameters, inputs and output: tables, caches, a bias.
        training_flops: FLOPs of one forward and backward pass, with gradients of the inputs and the parameters.
            A matrix product has two others in its backward pass: three times `flops`, unless given.
        done_flops: FLOPs that the implementation does in a forward pass, padding included; `flops` unless given.
    """

    mechanism: str
    sizes: dict[str, int | str | bool]
    terms: dict[str, int]
    elementwise_terms: dict[str, int]
    parameters: int
    moved_terms: dict[str, int]
    peak_bytes: int | None = None
    peak_bytes_training: int | None = None
    table_bytes: int = 0
    training_flops: int = -1
    done_flops: int = -1
    flops: int = field(init=False)
    elementwise: int = field(init=False)
    bytes_moved: int = field(init=False)

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # the class is frozen
        set_field(self, "flops", sum(self.terms.values()))
        set_field(self, "elementwise", sum(self.elementwise_terms.values()))
        set_field(self, "bytes_moved", sum(self.moved_terms.values()))
        if self.training_flops < 0:
            set_field(self, "training_flops", 3 * self.flops)
        if self.done_flops < 0:
            set_field(self, "done_flops", self.flops)

    @property
    def intensity(self) -> float:
        """FLOPs for each byte moved."""
        return self.flops / self.bytes_moved

    @property
    def bytes_moved_training(self) -> int:
        """Least traffic of a forward and backward pass.

        `y = x w` reads two tables and writes one; so do `dx` and `dw`: three times the traffic. Any other step has at
        least the gradients to move: twice.
        """
        total = 0
        for step, moved in self.moved_terms.items():
            is_product = step in self.terms or step.endswith(FUSED_ATTENTION)
            total += (3 if is_product else 2) * moved
        return total

    def roofline(self, hardware: Hardware, *, training: bool = False) -> Roofline:
        """The least time on a machine: neither its arithmetic nor its memory can be outrun.

        `max(flops / peak_flops, bytes_moved / bandwidth)`

        Williams, Waterman and Patterson, Roofline: An Insightful Visual Performance Model, 2009.
        """
        compute_s = (self.training_flops if training else self.flops) / hardware.peak_flops
        bandwidth_s = (self.bytes_moved_training if training else self.bytes_moved) / hardware.bandwidth
        bound = "compute" if compute_s > bandwidth_s else "bandwidth"
        return Roofline(max(compute_s, bandwidth_s), bound, compute_s, bandwidth_s)


def named(prefix: str, terms: dict[str, int]) -> dict[str, int]:
    """Terms of a part, under the part's name: `{"cbam1: MLP": …}`."""
    return {f"{prefix}: {name}": value for name, value in terms.items()}


def in_bytes(elements: dict[str, int], dtype: str) -> dict[str, int]:
    return {step: count * DTYPE_BYTES[dtype] for step, count in elements.items()}


def summed(*terms: dict[str, int]) -> dict[str, int]:
    """Terms of several parts, those of one name added up."""
    return {step: sum(part.get(step, 0) for part in terms) for part in terms for step in part}


def check_heads(d_model: int, num_heads: int, num_kv_heads: int | None = None) -> int:
    """The number of heads of keys and values, `num_heads` unless given."""
    if d_model % num_heads:
        raise ValueError(
            f"num_heads must divide d_model, got d_model = {d_model} and num_heads = {num_heads}"
        )
    if num_kv_heads is None:
        return num_heads
    if num_heads % num_kv_heads:
        raise ValueError(
            f"num_kv_heads must divide num_heads, got num_heads = {num_heads} and num_kv_heads = {num_kv_heads}"
        )
    return num_kv_heads


def check_odd(kernel_size: int) -> None:
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}")


def check_size(name: str, value: object, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if name == "dtype":
        if value not in DTYPE_BYTES:
            raise ValueError(f"unknown dtype {value!r}; known: {', '.join(DTYPE_BYTES)}")
    elif name in _FLAGS:
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")
    else:
        least = 0 if name in _FROM_ZERO else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
