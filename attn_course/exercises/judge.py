"""From observations to a verdict: right, not attempted, or which mistake. Never sees the candidate itself."""

import functools
import math
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np

from .guard import Job, Limits, Watch
from .runner import Fault, Observation, Report, Seen, is_placeholder, observe_own
from .task import Case, Inputs, Task, make_inputs


class Mistake:
    """A well-known wrong answer, in one or more forms.

    ``says`` names the mistake and the thought to repair, without the repair. A mistake of rounding has as many forms
    as there are ways to write it: where a case says how exact a number has to be, what is wrong and within ``loose``
    of the form that stands here counts as this mistake.
    """

    def __init__(
        self, id: str, says: str, *candidates: Callable[..., Any], loose: float | None = None
    ) -> None:
        self.id, self.says, self.candidates, self.loose = id, says, candidates, loose


@dataclass(frozen=True)
class Answer:
    """What belongs to a task and stays away from a submission."""

    id: str
    solution: Callable[..., Any]
    why: str
    hints: tuple[str, ...]
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True)
class Verdict:
    passed: bool | None
    diagnosis: str | None
    message: str


@dataclass(frozen=True)
class Problem:
    """The first thing that is wrong with one call."""

    kind: str
    text: str
    where: str = ""  # which part of the result
    expected: np.ndarray | None = None
    seen: np.ndarray | None = None
    guess: str = ""  # what may be behind it, said where the mistake has no name


def answer(task: Task) -> Answer:
    """The answer that belongs to ``task``."""
    module = import_module(f"{__package__}.chapter{task.chapter}_answers")
    return next(a for a in module.ANSWERS if a.id == task.id)


@functools.lru_cache(maxsize=64)
def _expected(task: Task, seed: int) -> dict[str, Observation]:
    """What the right answer does in each case."""
    seen: dict[str, Observation] = {}

    def work(job: Job, watch: Watch) -> None:
        seen.update((o.case, o) for o in observe_own(task, answer(task).solution, task.cases, seed))

    Job(work, Limits()).run()
    return seen


# -------------------------------------------------------------------------------------------------- comparison

# Rounding error of one operation. float64 is judged like float32: a right answer may hold a float32 constant.
_EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
_FLOAT_SLACK = 32.0


def tolerance(dtype: str, terms: int, expected: np.ndarray) -> float:
    """The largest absolute error that another order of the same additions may bring."""
    unit = _EPS.get(dtype, _FLOAT_SLACK * 2.0**-23)
    finite = np.abs(expected[np.isfinite(expected)]) if expected.size else expected
    return unit * (8 + terms) * max(1.0, float(finite.max()) if finite.size else 1.0)


def allowed(case: Case, dtype: str, expected: np.ndarray) -> float:
    """The largest absolute error that ``case`` forgives."""
    return tolerance(dtype, case.terms, expected) if case.within is None else case.within


def _as_float(data: np.ndarray) -> np.ndarray:
    return data.astype(np.float64) if data.dtype.kind in "fiub" else data


def _differs(seen: np.ndarray, expected: np.ndarray, dtype: str, case: Case) -> np.ndarray:
    """Where two arrays of one shape differ: NaN equals NaN, infinity itself."""
    if expected.dtype.kind not in "fc" and seen.dtype.kind not in "fc":
        return seen != expected
    seen, expected = _as_float(seen), _as_float(expected)
    near_enough = allowed(case, dtype, expected)
    with np.errstate(invalid="ignore"):
        near = np.abs(seen - expected) <= near_enough
    same = near | (seen == expected) | (np.isnan(seen) & np.isnan(expected))
    return ~same


def _article(name: str) -> str:
    return f"an {name}" if name[:1] in "aeiou" else f"a {name}"


def _kind_name(seen: Seen) -> str:
    if seen.kind in ("tuple", "list"):
        return f"a {seen.kind} of {len(seen.items)}"
    if seen.kind == "none":
        return "None"
    return _article(seen.type)


def _compare(seen: Seen, expected: Seen, where: str, case: Case) -> Problem | None:
    """The first difference between two values."""
    if expected.kind in ("tuple", "list"):
        if seen.kind not in ("tuple", "list") or len(seen.items) != len(expected.items):
            names = where.split(", ")
            wanted = f"`({where})`" if len(names) > 1 else f"a tuple of {len(expected.items)}"
            kind = "returns-none" if seen.kind == "none" else "wrong-type"
            return Problem(kind, f"It returned {_kind_name(seen)}; expected {wanted}.", where)
        names = where.split(", ")
        if len(names) != len(expected.items):
            names = [f"{where}[{i}]" for i in range(len(expected.items))]
        for name, one, other in zip(names, seen.items, expected.items, strict=True):
            problem = _compare(one, other, name, case)
            if problem is not None:
                return problem
        return None
    if seen.kind == "none" == expected.kind:
        return None
    if seen.kind == "none":
        subject = "It" if where == "result" else f"`{where}`"
        verb = "returned None" if where == "result" else "is None"
        return Problem("returns-none", f"{subject} {verb}; expected {_kind_name(expected)}.", where)
    if expected.kind == "tensor":
        return _compare_tensors(seen, expected, where, case)
    if seen.kind != expected.kind:
        text = f"`{where}` is {_kind_name(seen)}; expected {_kind_name(expected)}."
        whole = (seen.kind, expected.kind) == ("float", "int")
        guess = "`/` gives a float, even where it divides evenly; `//` gives an integer." if whole else ""
        return Problem("wrong-type", text, where, guess=guess)
    if expected.kind == "float" and isinstance(seen.value, float) and isinstance(expected.value, float):
        gap = abs(seen.value - expected.value)
        same = seen.value == expected.value or gap <= 1e-6 * max(abs(expected.value), 1e-12)
    elif expected.kind in ("dict", "other"):
        same = seen == expected
    else:
        same = seen.value == expected.value
    if same:
        return None
    what = (
        "It returned" if where.isidentifier() else f"{where[:1].upper()}{where[1:]} is"
    )  # seen, not returned
    return Problem("wrong-value", f"{what} {seen.value!r}; expected {expected.value!r}.", where)


def _compare_tensors(seen: Seen, expected: Seen, where: str, case: Case) -> Problem | None:
    if seen.kind != "tensor" or seen.type != "Tensor":
        return Problem("wrong-type", f"`{where}` is {_kind_name(seen)}; expected a torch.Tensor.", where)
    if seen.shape != expected.shape:
        text = f"`{where}` has the shape {seen.shape}; expected {expected.shape}."
        return Problem("wrong-shape", text, where)
    if seen.device != expected.device:
        text = f"`{where}` is on the device {seen.device}; expected {expected.device}, where the inputs are."
        return Problem("wrong-device", text, where)
    if seen.dtype != expected.dtype:
        return Problem("wrong-dtype", f"`{where}` is {seen.dtype}; expected {expected.dtype}.", where)
    if seen.data is None or expected.data is None or seen.data.shape != expected.data.shape:
        return Problem("wrong-type", f"`{where}` holds no numbers that can be read.", where)
    if seen.data.dtype.kind == "f" and not np.isfinite(seen.data).all() and np.isfinite(expected.data).all():
        bad = int((~np.isfinite(seen.data)).sum())
        text = f"{bad} of {seen.data.size} numbers in `{where}` are NaN or infinite."
        return Problem("not-a-number", text, where, expected.data, seen.data)
    wrong = _differs(seen.data, expected.data, expected.dtype, case)
    if case.exact_zeros:
        wrong |= (expected.data == 0) & (seen.data != 0)
    if wrong.any():
        text = f"{int(wrong.sum())} of {wrong.size} numbers in `{where}` are wrong."
        return Problem("wrong-value", text, where, expected.data, seen.data)
    return None


_VALUES_AND_INDICES = (
    "`max(dim)` and `min(dim)` give values *and* indices; `amax(dim)` and `amin(dim)` give the values alone."
)
_FAULT_GUESSES = (
    ("RecursionError", "", "It calls itself without end."),
    ("SystemExit", "", "It called exit(), which would have ended your session."),
    ("KeyboardInterrupt", "", "It raised KeyboardInterrupt by itself."),
    ("MemoryError", "", "It asked for more memory than there is."),
    ("NameError", "", "Is a name misspelt, an import missing, or a cell above (folded ones count) not run yet?"),
    ("RuntimeError", "not implemented for", "torch has no such operation for numbers of that dtype."),
    ("RuntimeError", "view size is not compatible", "`view` needs numbers that lie in order in memory: after a "
     "transpose they do not."),
    ("RuntimeError", "a leaf Variable that requires grad", "It writes into one of its inputs."),
    ("RuntimeError", "numpy() on Tensor that requires grad", "A round trip through numpy cuts the gradient."),
    ("RuntimeError", "without overflow", "That number does not fit into the dtype of the scores."),
    ("RuntimeError", "Integers to negative integer powers", "A tensor of integers has no negative powers: make one of "
     "the two a float."),
    ("RuntimeError", "modified by an inplace operation", "The backward pass needs what was written over: make a new "
     "tensor instead (`torch.where`, `masked_fill`)."),
    ("RuntimeError", "with a bool tensor is not supported", "A bool mask is no number. Ask it a question whose answer "
     "is bool, whatever its dtype."),
    ("AttributeError", "return_types", _VALUES_AND_INDICES),
    ("TypeError", "return_types", _VALUES_AND_INDICES),
    ("TypeError", "max() received an invalid", "`max` goes along one dimension; `amax` takes several, and gives the "
     "values alone."),
    ("TypeError", "NoneType", "Something that it calls returned nothing: is that function written, with its `return`?"),
    ("TypeError", "float", "`/` gives a float, even where it divides evenly; `//` gives an integer."),
    ("TypeError", "positional argument", "Does it take the arguments of the stub, in that order?"),
)  # fmt: skip


def _fault_text(fault: Fault) -> str:
    text = f"It raised {fault.type}" + (f": {fault.text}" if fault.text else "")
    # What follows is advice that may mislead.
    text = re.split(r"\n| Hint: | If you are trying to invert a mask|, but expected one of:", text)[0]
    text = textwrap.shorten(text.rstrip("."), 300, placeholder=" …") + "."
    if fault.line:
        text += f" The line was `{fault.line}`."
    return text


def _fault_guess(fault: Fault) -> str:
    if is_placeholder(fault):
        return "The stub's `raise NotImplementedError` is still in it."
    fits = (guess for kind, part, guess in _FAULT_GUESSES if kind in fault.bases and part in fault.text)
    return next(fits, "")


_STOPPED = {
    "time": "It did not come back, and was given up: an endless loop, or far too much work for its input.",
    "memory": "It kept asking for more memory, and was stopped.",
    "output": "It printed without end, and was stopped.",
}
_BANNED = {  # settings that a function has no business changing, whatever it returns
    "default dtype": "changes-default-dtype",
    "grad mode": "changes-grad-mode",
    "default device": "changes-default-device",
}
# Problems of a result, which a known mistake may explain.
_RESULTS = (
    "wrong-value", "wrong-type", "wrong-shape", "wrong-dtype", "wrong-device", "not-a-number", "cuts-gradient",
    "gradient-not-finite", "breaks-autograd", "no-error", "wrong-error", "returns-none",
)  # fmt: skip
_STOP_IDS = {"time": "no-progress", "memory": "out-of-memory", "output": "prints-without-end"}


def _problem(task: Task, case: Case, seen: Observation, right: Observation) -> Problem | None:
    """The first thing that is wrong with one call."""
    if seen.stopped:
        return Problem(_STOP_IDS[seen.stopped], _STOPPED[seen.stopped])
    for name in seen.settings:
        if name in _BANNED:
            text = f"It changed torch's {name} for the whole program. (It has been put back.)"
            return Problem(_BANNED[name], text)
    replaced = ", ".join(f"`{name}`" for name in seen.settings if "." in name)
    if replaced:
        text = f"It replaced {replaced} for the whole program. (Put back now.)"
        return Problem("patches-library", text)
    if right.fault is not None:  # an error is the right answer here
        if seen.fault is None:
            return Problem("no-error", f"It returned {_kind_name(seen.result or Seen('none', 'None'))}; expected a "
                           f"{right.fault.type} for this input.")  # fmt: skip
        if right.fault.type not in seen.fault.bases:
            text = f"{_fault_text(seen.fault)} Expected a {right.fault.type}."
            return Problem("wrong-error", text, guess=_fault_guess(seen.fault))
        return None
    if seen.fault is not None:
        recursion = "RecursionError" in seen.fault.bases
        kind = "endless-recursion" if recursion else "raises"
        return Problem(kind, _fault_text(seen.fault), guess=_fault_guess(seen.fault))
    assert right.result is not None
    result = seen.result or Seen("none", "None")
    if result.kind == "none" and right.result.kind != "none":
        parts = [name for name in task.returns if name.isidentifier()]  # others are what ``act`` made
        pairs = zip(task.returns, right.result.items, strict=False)
        first = next((item for name, item in pairs if name in parts), right.result)
        wanted = f"({', '.join(parts)})" if len(parts) > 1 else _kind_name(first)
        text = f"It did its work and returned None; expected {wanted}. Is the `return` at its end missing?"
        return Problem("returns-none", text)
    if seen.wrote_into:
        names = ", ".join(f"`{n}`" for n in seen.wrote_into)
        text = f"It changed its input {names} in place. Whoever calls it may still need the old numbers."
        return Problem("changes-input", text)
    problem = _compare(result, right.result, ", ".join(task.returns), case)
    return (
        problem
        or _random_problem(seen, case)
        or _gradient_problem(seen, right, case)
        or _memory_problem(seen, case)
    )


def _random_problem(seen: Observation, case: Case) -> Problem | None:
    if seen.again is None or seen.result is None:
        return None
    problem = _compare(seen.again, seen.result, "result", case)
    if problem is None or problem.kind not in ("wrong-value", "not-a-number"):
        return None
    text = "Two calls with the same input gave different results: something in it is random."
    return Problem("random-results", text)


def _gradient_problem(seen: Observation, right: Observation, case: Case) -> Problem | None:
    if right.gradients is None:
        return None
    if seen.gradient_fault is not None:
        text = f"Its result is right, but the backward pass fails: {_fault_text(seen.gradient_fault)}"
        return Problem("breaks-autograd", text, guess=_fault_guess(seen.gradient_fault))
    for name, expected in right.gradients.items():
        got = (seen.gradients or {}).get(name) or Seen("none", "None")
        if expected.kind == "none" or expected.data is None:
            continue
        if got.kind == "none" or got.data is None:
            if not _differs(np.zeros_like(expected.data), expected.data, "float32", case).any():
                continue
            text = (f"The numbers are right, but no gradient reaches `{name}`: somewhere on the way the result was "
                    "cut off from its inputs (`detach`, `.data`, `no_grad`, numpy, `torch.tensor`).")  # fmt: skip
            return Problem("cuts-gradient", text)
        if not np.isfinite(got.data).all():
            bad = int((~np.isfinite(got.data)).sum())
            text = f"The numbers are right, but {bad} of {got.data.size} gradients of `{name}` are NaN or infinite."
            return Problem("gradient-not-finite", text)
        if got.data.shape != expected.data.shape or _differs(got.data, expected.data, "float32", case).any():
            text = (f"The numbers are right, but the gradient that reaches `{name}` is not: a part of the way was "
                    "cut off (`detach`, `.data`, `no_grad`, numpy).")  # fmt: skip
            return Problem("cuts-gradient", text)
    return None


def _memory_problem(seen: Observation, case: Case) -> Problem | None:
    if seen.memory is None:
        return None
    largest, peak = seen.memory["largest_elements"], seen.memory["peak_bytes"]
    text = ""
    if case.most_elements is not None and largest >= case.most_elements:
        text = f"one tensor held {largest:,} numbers; it has to do with fewer than {case.most_elements:,}"
    elif case.most_bytes is not None and peak >= case.most_bytes:
        text = f"its tensors together held {peak:,} bytes at one time; it has to do with fewer than {case.most_bytes:,}"
    if not text:
        return None
    question = "What grows with both lengths at once, and is it needed whole?"
    return Problem("too-much-memory", f"The numbers are right, but on the way {text}. {question}")


# --------------------------------------------------------------------------------------------------- diagnosis


def _outline(fault: Fault) -> str:
    """The beginning of an error's text, whatever the numbers in it."""
    return re.sub(r"[\d\[\](), -]+", " ", fault.text)[:25]


def same(one: Observation, other: Observation, case: Case) -> bool:
    """Whether two candidates did the same in one call, as far as their results and gradients show."""
    if one.stopped or other.stopped:
        return False
    if (one.fault is None) != (other.fault is None):
        return False
    if one.fault is not None and other.fault is not None:
        return one.fault.type == other.fault.type and _outline(one.fault) == _outline(other.fault)
    if one.result is None or other.result is None or _compare(one.result, other.result, "result", case):
        return False
    if one.gradients is None or other.gradients is None or one.gradients.keys() != other.gradients.keys():
        return one.gradients is None and other.gradients is None
    return not any(_compare(g, other.gradients[n], n, case) for n, g in one.gradients.items())


def _explained(
    task: Task, seed: int, candidate: Callable[..., Any], seen: dict[str, Observation], failing: list[str],
    loose: float | None = None,
) -> tuple[set[str], set[str]]:  # fmt: skip
    """The cases in which a wrong ``candidate`` differs from the right answer; those where it did what was seen.

    Begins with the first failing case and ends as soon as the mistake can no longer be the one that was made.
    """
    first = failing[0]
    cases = {case.name: case for case in sorted(task.cases, key=lambda case: case.name != first)}
    right = _expected(task, seed)
    differing, matching = set(), set()
    for wrong in observe_own(task, candidate, cases.values(), seed):
        name, case = wrong.case, cases[wrong.case]
        if loose is not None and case.within is not None:
            if name in failing:
                differing.add(name)
                if same(wrong, seen[name], replace(case, within=loose)):
                    matching.add(name)
        elif not same(wrong, right[name], case):
            differing.add(name)
            if name in seen and same(wrong, seen[name], case):
                matching.add(name)
            elif first not in matching:
                break
    return differing, matching


def diagnose(
    task: Task, seed: int, seen: dict[str, Observation], failing: list[str]
) -> tuple[Mistake, set[str]] | None:
    """The known mistake that was made, and the cases that show it.

    A mistake is recognised when the candidate did as it does on every input where it differs from the right
    answer; else, for a mistake that does not come alone, when it explains the first failing call and a third of
    all of them, three at least. Errors alone prove little: they have to explain the first failing call in any case.
    """
    found: list[tuple[bool, int, Mistake, set[str]]] = []

    def work(job: Job, watch: Watch) -> None:
        for mistake, candidate in [(m, c) for m in answer(task).mistakes for c in m.candidates]:
            differing, matching = _explained(task, seed, candidate, seen, failing, mistake.loose)
            if mistake.loose is not None and len(matching) < len(failing):
                continue  # rounding is to blame only for what nothing else explains
            whole = bool(matching) and matching == differing
            part = failing[0] in matching and len(matching) >= max(3, math.ceil(len(failing) / 3))
            if (whole or part) and (failing[0] in matching or any(seen[n].fault is None for n in matching)):
                found.append((whole, len(matching), mistake, matching))
            if whole and len(matching) == len(failing):
                break  # it explains everything: none does better

    _expected(task, seed)
    Job(work, Limits()).run()
    if not found:
        return None
    # What explains the first failing call, which is the smallest, comes before all else; the first of equals.
    _, _, mistake, matching = max(found, key=lambda entry: (failing[0] in entry[3], *entry[:2]))
    return mistake, matching


# --------------------------------------------------------------------------------------------------- the words


def _numbers(data: np.ndarray) -> str:
    tiny = False
    if data.dtype.kind == "b":
        data = data.astype(int)
    elif data.dtype.kind == "f":
        rounded = np.round(data.astype(np.float64), 3) + 0.0
        tiny = bool(data.any() and not rounded.any())  # all of them would look like 0
        data = data if tiny else rounded
    text = np.array2string(
        data, precision=3, suppress_small=not tiny, max_line_width=88, threshold=200, separator=", "
    )
    return re.sub(r"\n\s*\n", "\n", text)


def _describe(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        dtype = str(value.dtype).removeprefix("torch.")
        return str(tuple(value.shape)) + ("" if dtype == "float32" else f" {dtype}")
    if isinstance(value, bool | int | float | str | None):
        return f"= {value!r}"
    if type(value).__name__ == "dtype":
        return f"= {value}"
    formula = getattr(value, "formula", "")
    return f"= {formula}" if formula else ""


def _calling(inputs: Inputs) -> str:
    shown = {name: value for name, value in inputs.items() if "." not in name}  # the rest is a module's own
    return ", ".join(f"{name} {_describe(value)}".strip() for name, value in shown.items())


def _evidence(case: Case, seed: int, problem: Problem, printed: str) -> str:
    """On which input it was seen: everything where it is small, shapes and one number where it is not."""
    inputs = make_inputs(case, seed)
    text = f"Seen with {_calling(inputs)}."
    arrays = {
        n: (v.float() if v.is_floating_point() else v).numpy()
        for n, v in inputs.items()
        if hasattr(v, "detach")
    }
    small = sum(a.size for a in arrays.values()) <= 40 and not any("." in n for n in inputs)
    if problem.expected is not None and problem.seen is not None:
        expected, seen = problem.expected, problem.seen
        if small and expected.size <= 40:
            rows = [*arrays.items(), (f"expected {problem.where}", expected), (f"your {problem.where}", seen)]
            blocks = [f"{name} =\n{_numbers(array)}" for name, array in rows]
            lines = "\n".join(blocks).split("\n")
            text += "\n\n" + "\n".join(f"    {line}" for line in lines)
        else:
            wrong = _differs(seen, expected, "float32", case) | (
                case.exact_zeros & (expected == 0) & (seen != 0)
            )
            gap = np.where(
                np.isfinite(_as_float(seen)), np.abs(_as_float(seen) - _as_float(expected)), np.inf
            )
            index = tuple(
                int(i) for i in np.unravel_index(int(np.argmax(np.where(wrong, gap, -1))), gap.shape)
            )
            place = problem.where + (f"[{', '.join(map(str, index))}]" if index else "")
            text += f"\n\n    {place}: expected {_numbers(expected[index])}, yours {_numbers(seen[index])}"
    if printed.strip():
        lines = printed.strip()[:300].split("\n")[:8]
        text += "\n\nIt printed:\n\n" + "\n".join(f"    {line}" for line in lines)
    return text


def judge(task: Task, report: Report, seed: int = 0) -> Verdict:
    """The verdict on what was observed of a candidate, called with the inputs that belong to ``seed``."""
    if report.candidate == "none" or report.untouched:
        return Verdict(None, None, "Nothing to check yet: the body does no work.")
    if report.candidate not in ("function", "class"):
        what = "class" if task.wants_class else "function"
        text = (
            f"This is {_article(report.candidate)}; pass the {what} `{task.name}` itself, without calling it."
        )
        return Verdict(False, "not-callable", text)
    cases = {case.name: case for case in task.cases}
    names = [observation.case for observation in report.observations]
    if names != list(cases)[: len(names)]:
        return Verdict(False, "incomplete", "These observations belong to another exercise.")
    right = _expected(task, seed)
    problems = []
    for seen in report.observations:
        problem = _problem(task, cases[seen.case], seen, right[seen.case])
        if problem is not None:
            problems.append((seen, problem))
    if not problems:
        if len(report.observations) < len(task.cases):
            return Verdict(False, "incomplete", "The check did not reach its end.")
        return Verdict(True, None, f"Right in all {len(task.cases)} calls.")
    seen, problem = problems[0]
    known = None
    for other in report.observations:  # a random result matches no known mistake
        if problem.kind in _RESULTS and (random := _random_problem(other, cases[other.case])):
            seen, problem = other, random
    if problem.kind in (*_RESULTS, "raises"):
        known = diagnose(task, seed, {o.case: o for o in report.observations}, [o.case for o, _ in problems])
    elif problem.kind == "random-results":
        drops = [m for m in answer(task).mistakes if m.id == "dropout-left-on"]
        known = (drops[0], {seen.case}) if drops else None
    if known is None:
        text = f"{problem.text} {problem.guess}".rstrip()
        text += f"\n\n{_evidence(cases[seen.case], seed, problem, seen.printed)}"
        return Verdict(False, problem.kind, text)
    mistake, shown = known
    if seen.case not in shown:
        seen, problem = next((o, p) for o, p in problems if o.case in shown)
    text = f"{mistake.says}\n\n{problem.text} {_evidence(cases[seen.case], seed, problem, seen.printed)}"
    return Verdict(False, mistake.id, text)
