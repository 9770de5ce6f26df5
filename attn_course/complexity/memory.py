"""The memory of a mechanism, followed step by step on sizes alone: what is taken, what is kept, what is let go.

`Memory` runs a mechanism's steps without any numbers in the tables. A table is alive as long as something refers to
it: a name, or, in training, a step that wants it back in the backward pass. That is torch's rule and Python's too,
so the names in these functions are those of the modules. What torch allocates on a CPU is taken, no more and no less:
copies of tables that do not lie in order, and the copies in oneDNN's own order that its convolutions work on.
One thread is assumed, where that matters.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

from .core import DTYPE_BYTES

_BLOCK = 16  # oneDNN keeps channels in groups of so many (with AVX-512)


class Storage:
    """Bytes that are alive until the last reference to them is gone."""

    def __init__(self, memory: Memory, size: int, *, foreign: bool = False, view: bool = False) -> None:
        self.memory, self.size = memory, size
        self.foreign = foreign  # the caller's: not counted, and not to be written over
        self.view = view  # a view of a table in another shape; torch does not write over such gradients
        if not foreign:
            memory.alive += size
            memory.peak = max(memory.peak, memory.alive)

    def __del__(self) -> None:
        if not self.foreign:
            self.memory.alive -= self.size


class Step:
    """A step of the forward pass that the backward pass comes back to."""

    def __init__(
        self, order: int, inputs: Sequence[Table], saved: Sequence[Storage], backward: Backward
    ) -> None:
        self.order = order
        self.inputs = [(table.step, table.slot) for table in inputs]
        self.saved = list(saved)
        self.backward = backward
        self.gradients: dict[int, Storage] = {}  # of its outputs, by their place among them

    def __lt__(self, other: Step) -> bool:
        return self.order > other.order  # the latest step comes first


class Table:
    """A tensor: how many elements, where they are kept, and which step made it."""

    def __init__(self, elements: int, storage: Storage, step: Step | None, slot: int = 0) -> None:
        self.elements, self.storage, self.step, self.slot = elements, storage, step, slot


# From the gradients of a step's outputs (None where nothing came back) to those of its inputs.
Backward = Callable[[list["Storage | None"]], Sequence["Storage | None"]]


class Memory:
    """Bytes alive, now and at most, while a mechanism runs, in inference or in training."""

    def __init__(self, dtype: str, *, training: bool) -> None:
        self.dtype, self.itemsize, self.training = dtype, DTYPE_BYTES[dtype], training
        self.alive = self.peak = 0
        self._count = 0
        self._kept: list[Storage] = []

    def take(self, elements: int, itemsize: int | None = None) -> Storage:
        return Storage(self, elements * (self.itemsize if itemsize is None else itemsize))

    def given(self, elements: int) -> Table:
        """An input. Its bytes are not counted, its gradient is."""
        size = elements * self.itemsize
        step = Step(0, [], [], lambda grads: self._keep(grads)) if self.training else None
        return Table(elements, Storage(self, size, foreign=True), step)

    def made(
        self,
        storage: Storage,
        elements: int,
        inputs: Sequence[Table],
        backward: Backward,
        saved: Sequence[Storage] = (),
    ) -> Table:
        """The table that a step makes of its inputs. `saved` stays alive until the backward pass has been there."""
        step = self.step(inputs, backward, saved)
        return Table(elements, storage, step)

    def step(self, inputs: Sequence[Table], backward: Backward, saved: Sequence[Storage] = ()) -> Step | None:
        if not self.training:
            return None
        self._count += 1
        return Step(self._count, inputs, saved, backward)

    def parameter_gradient(self, elements: int) -> None:
        self._kept.append(self.take(elements))

    def backward(self, output: Table) -> None:
        """Go back through the steps that made `output`, the latest first, from a gradient that the caller holds."""
        assert output.step is not None
        output.step.gradients[0] = Storage(self, output.elements * self.itemsize, foreign=True)
        waiting = [output.step]
        while waiting:
            step = heapq.heappop(waiting)
            gradients = [step.gradients.pop(slot, None) for slot in range(max(step.gradients) + 1)]
            results = list(step.backward(gradients))
            del gradients
            step.saved.clear()
            for before, slot in step.inputs:
                self._hand_on(results.pop(0), before, slot, waiting)

    def _hand_on(self, gradient: Storage | None, step: Step | None, slot: int, waiting: list[Step]) -> None:
        """Give a gradient to the step that made the table, added to what is there: in place where torch does."""
        if step is None or gradient is None:
            return
        if not step.gradients:
            heapq.heappush(waiting, step)
        old = step.gradients.get(slot)
        if old is None:
            step.gradients[slot] = gradient
        elif old.foreign or old.view:
            step.gradients[slot] = Storage(self, old.size)

    def _keep(self, grads: list[Storage | None]) -> list[Storage]:
        """An input keeps its gradient, and a copy of one that belongs to somebody else."""
        self._kept += [
            Storage(self, grad.size) if grad.foreign else grad for grad in grads if grad is not None
        ]
        return []

    # --- Steps that several mechanisms have in common ------------------------------------------------------

    def clone(self, x: Table) -> Table:
        """A copy that lies in order."""
        return self.made(self.take(x.elements), x.elements, [x], lambda grads: [grads[0]])

    def scaled(self, x: Table) -> Table:
        """`x` times a number that is not learnt."""
        elements = x.elements
        return self.made(self.take(elements), elements, [x], lambda grads: [self.take(elements)])

    def add(self, x: Table, y: Table) -> Table:
        """`x + y`: both get the gradient as it is."""
        return self.made(self.take(x.elements), x.elements, [x, y], lambda grads: [grads[0], grads[0]])

    def add_parameter(self, x: Table, elements: int) -> Table:
        """`x` and a learnt table of `elements`, which all sequences share."""

        def backward(grads: list[Storage | None]) -> list[Storage | None]:
            self.parameter_gradient(elements)
            return [grads[0]]

        return self.made(self.take(x.elements), x.elements, [x], backward)

    def from_output(self, x: Table, *, strided: bool = False) -> Table:
        """ReLU, sigmoid or softmax: the backward pass is computed from the output.

        `strided`: the gradient that comes back does not lie in order, and is copied.
        """
        elements, output = x.elements, self.take(x.elements)

        def backward(grads: list[Storage | None]) -> list[Storage]:
            grad = self.take(elements)
            self.take(elements if strided else 0)
            return [grad]

        return self.made(output, elements, [x], backward, [output])

    def mean(self, x: Table, elements: int) -> Table:
        """A mean over some of the dimensions, of which `elements` are left."""
        size = x.elements
        return self.made(self.take(elements), elements, [x], lambda grads: [self.take(size)])

    def mean_of_cells(self, x: Table, elements: int) -> Table:
        """`AdaptiveAvgPool2d`, which wants its input back."""
        size = x.elements
        return self.made(self.take(elements), elements, [x], lambda grads: [self.take(size)], [x.storage])

    def linear(
        self,
        x: Table,
        rows: int,
        before: int,
        after: int,
        *,
        bias: bool = True,
        strided: bool = False,
        again: bool = False,
    ) -> Table:
        """`rows` of width `before` become rows of width `after`.

        `strided`: their gradients do not lie in order; `again`: the weights have served before, and are counted there.
        """

        def backward(grads: list[Storage | None]) -> list[Storage]:
            if strided:
                grads[0] = self.take(rows * after)
            grad = Storage(self, rows * before * self.itemsize, view=True)
            of_weights = [self.take(before * after), self.take(after if bias else 0)]
            self._kept += [] if again else of_weights
            return [grad]

        return self.made(self.take(rows * after), rows * after, [x], backward, [x.storage])

    def product(self, a: Table, b: Table, elements: int, *, strided: bool = False) -> Table:
        """Batched matrix product of two tables."""
        of_a, of_b = a.elements, b.elements

        def backward(grads: list[Storage | None]) -> list[Storage]:
            if strided:
                grads[0] = self.take(elements)
            grad_b = self.take(of_b)
            return [self.take(of_a), grad_b]

        return self.made(self.take(elements), elements, [a, b], backward, [a.storage, b.storage])

    def layer_norm(self, x: Table, width: int) -> Table:
        elements, rows = x.elements, x.elements // width
        output, mean, deviation = self.take(elements), self.take(rows), self.take(rows)

        def backward(grads: list[Storage | None]) -> list[Storage]:
            grad = self.take(elements)
            self.parameter_gradient(2 * width)
            return [grad]

        return self.made(output, elements, [x], backward, [x.storage, mean, deviation])

    def dropout(self, x: Table) -> Table:
        """Only in training: what is kept, by a table of 0 and `1 / (1 - p)`."""
        if not self.training:
            return x
        elements, noise = x.elements, self.take(x.elements)
        return self.made(self.take(elements), elements, [x], lambda grads: [self.take(elements)], [noise])

    def max_pool(self, x: Table, elements: int) -> Table:
        """Max-pooling down to `elements`; the places of the maxima are 8-byte integers."""
        size = x.elements
        output, places = self.take(elements), self.take(elements, 8)
        return self.made(output, elements, [x], lambda grads: [self.take(size)], [x.storage, places])

    def convolution(
        self,
        x: Table,
        batch: int,
        channels: tuple[int, int],
        size_out: tuple[int, int],
        kernel: int,
        *,
        stride: int = 1,
        bias: bool = True,
    ) -> Table:
        """A convolution; oneDNN's works on copies of input, kernel and output in its own order."""
        (before, after), places = channels, batch * size_out[0] * size_out[1]
        given, made, learnt = x.elements, places * after, before * after * kernel**2
        columns = 0 if kernel == stride == 1 else places * before * kernel**2
        onednn = self._takes_onednn(batch, given, kernel, stride)
        copy_in, copy_out = given // before * _padded(before), places * _padded(after)
        copy_kernel = _padded(before) * _padded(after) * kernel**2

        if onednn:  # works on copies in its own order, but for the input where that has few channels
            plain = before < _BLOCK
            copies = [self.take(0 if plain else copy_in)]
            copies.append(self.take(copy_kernel // _padded(before) * before if plain else copy_kernel))
            ordered = self.take(copy_out)
            copies.clear()
            output = self.take(made)
            del ordered
        else:  # unfolds the input
            unfolded = self.take(columns)
            output = self.take(made)
            del unfolded

        def backward(grads: list[Storage | None]) -> list[Storage]:
            grad = of_input() if onednn else self.take(given)
            copies = []
            if onednn:
                block = _BLOCK if before >= _BLOCK else _BLOCK // 2
                copies = [self.take(places * _padded(after, block))]
                copies.append(self.take(0 if before <= 3 else given // before * _padded(before, block)))
                copies.append(self.take(copy_kernel))
                del copies[:2]
            self.parameter_gradient(learnt)
            self.parameter_gradient(after if bias else 0)
            copies.append(self.take(0 if onednn else columns))
            return [grad]

        def of_input() -> Storage:
            copies = [self.take(copy_out), self.take(copy_kernel)]
            ordered = self.take(copy_in if stride == 1 else given)
            copies.clear()
            grad = self.take(given)
            if stride > 1:
                grad = self.take(given)  # once more, in order
            del ordered
            return grad

        return self.made(output, made, [x], backward, [x.storage])

    def _takes_onednn(self, batch: int, elements: int, kernel: int, stride: int) -> bool:
        """When torch hands a convolution over to oneDNN (`use_mkldnn` in its Convolution.cpp)."""
        if self.dtype != "float32" or (kernel == stride == 1 and batch < 16):
            return False
        return batch > 1 or kernel > 3 or elements > 20480


def peaks(
    dtype: str, steps: Callable[..., tuple[Table, ...]], *inputs: int, training: bool = True
) -> dict[str, Any]:
    """Peak bytes of the `steps` of a mechanism, from inputs of so many elements, in inference and in training.

    The first table that `steps` returns is the output that the backward pass starts from.
    """
    found: dict[str, Any] = {"peak_bytes": None, "peak_bytes_training": None}
    for name in ("peak_bytes", "peak_bytes_training")[: 1 + training]:
        memory = Memory(dtype, training=name == "peak_bytes_training")
        results = steps(memory, *[memory.given(elements) for elements in inputs])
        if memory.training:
            output, results = results[0], ()
            memory.backward(output)
        found[name] = memory.peak
    return found


def _padded(channels: int, block: int = _BLOCK) -> int:
    return -(-channels // block) * block
