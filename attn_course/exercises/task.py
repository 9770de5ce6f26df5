"""What an exercise asks, as data: a task and the calls that its check makes."""

import ast
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One call of the candidate.

    ``inputs`` makes the arguments, in the order of the signature, from a generator: same seed, same arguments, in
    any process. ``terms`` is about how many numbers are summed behind one number of the result; with the dtype it
    sets the tolerance, unless ``within`` says how exact a number has to be. The flags say what is looked at beside
    the result.
    """

    name: str
    inputs: Callable[[torch.Generator], Inputs]
    terms: int = 16
    within: float | None = None
    gradients: bool = False  # through the first tensor that comes back, to every floating-point input
    twice: bool = False  # called again with another random state: the same result is expected
    exact_zeros: bool = False  # where 0 is expected, nothing but 0 will do
    memory: bool = False  # what the call allocates: live bytes at the peak, elements of the largest storage
    most_elements: int | None = None  # with ``memory``: any one storage holds fewer
    most_bytes: int | None = None  # with ``memory``: all that live at one time take fewer


@dataclass(frozen=True)
class Task:
    """An exercise without its answer: everything that may stand beside a learner's code.

    ``act`` says how a candidate is called; without it, by position. It may put further leaves whose gradients are
    to be observed (a module's parameters) into its third argument. ``rests_on`` names exercises before it whose
    answers the chapter hands to the learner, solved or not.
    """

    id: str
    chapter: int
    title: str
    prompt: str
    stub: str
    returns: tuple[str, ...]
    cases: tuple[Case, ...]
    act: Callable[[Any, Inputs, dict[str, torch.Tensor]], Any] | None = None
    rests_on: tuple[str, ...] = ()

    @cached_property
    def definition(self) -> ast.FunctionDef | ast.ClassDef:
        """The function or class that the stub defines."""
        found = [n for n in ast.parse(self.stub).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        return found[-1]

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def wants_class(self) -> bool:
        return isinstance(self.definition, ast.ClassDef)

    @property
    def filled(self) -> str:
        """The function in the stub whose body the learner writes."""
        return "forward" if self.wants_class else self.name

    @cached_property
    def optional(self) -> tuple[str, ...]:
        """The parameters that have a default: the only ones that may be passed by name."""
        node = self.definition
        if isinstance(node, ast.ClassDef):
            return ()
        defaults = len(node.args.defaults)
        return tuple(a.arg for a in node.args.args[-defaults:]) if defaults else ()


def make_inputs(case: Case, seed: int) -> Inputs:
    """The arguments of ``case`` for ``seed``, made anew at each call."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{case.name}".encode()))
    return case.inputs(generator)
