"""The learner's side of an exercise: ``catalog``, ``get``, ``Exercise``, ``CheckResult``."""

import difflib
import functools
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .panel import Note, Source, panel
from .runner import observe
from .task import Task

_WORDS = {True: ("passed", "passed"), False: ("wrong", "not yet"), None: ("idle", "not attempted")}


@dataclass(frozen=True, repr=False)
class CheckResult:
    """What a check found.

    ``passed`` is True, False, or None for a stub that nobody has touched; ``diagnosis`` the id of the mistake that
    was recognised, or None; ``message`` the text for the learner.
    """

    exercise: str
    passed: bool | None
    diagnosis: str | None
    message: str

    def __bool__(self) -> bool:
        return self.passed is True

    def __repr__(self) -> str:
        return f"{self.exercise}: {_WORDS[self.passed][1]}. {self.message}".replace("\n\n", "\n")

    def _repr_html_(self) -> str:
        tone, word = _WORDS[self.passed]
        mark = {True: "✓", False: "✗", None: "○"}[self.passed]
        return panel(tone, f"{self.exercise}: {word}", self.message, mark)


class Exercise:
    """One exercise: what is asked, a check of an answer, hints, and the reference answer."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.id, self.chapter, self.title = task.id, task.chapter, task.title
        self.prompt, self.stub = task.prompt, task.stub

    def __repr__(self) -> str:
        return f"<Exercise {self.id}: {self.title}>"

    def _repr_markdown_(self) -> str:
        return f"**{self.title}.** {self.prompt}\n\n```python\n{self.stub}```"

    @property
    def _answer(self) -> Any:
        from .judge import answer  # late: the judge and the answers are not wanted beside a submission

        return answer(self.task)

    @property
    def reference(self) -> Callable[..., Any]:
        """The course's own answer, as a function or class."""
        return self._answer.solution

    def check(self, candidate: Any = None, *, seed: int = 0) -> CheckResult:
        """Call ``candidate`` on this exercise's cases and say whether it is right or which mistake it makes.

        Raises nothing that the candidate raises, and puts global state (random generators, default dtype, grad
        mode, replaced functions) back. A candidate that makes no progress is given up.
        """
        from .judge import judge

        verdict = judge(self.task, observe(self.task, candidate, seed), seed)
        message = verdict.message
        if verdict.passed is None:
            message += f' `get("{self.id}").hint()` gives a first hint.'
            message += " Until your own passes, the chapter goes on with the course's."
        elif not verdict.passed:
            message += f'\n\nStuck? `get("{self.id}").hint()`'
        return CheckResult(self.id, verdict.passed, verdict.diagnosis, message)

    def hint(self, number: int = 1) -> Note:
        """Hint ``number``, from 1, a nudge, to the last step but one.

        Raises:
            ValueError: ``number`` is not a positive integer.
        """
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"hints are counted from 1, got {number!r}")
        hints = self._answer.hints
        if number > len(hints):
            text = (
                f'There are {len(hints)} hints, and no more. `get("{self.id}").solution()` shows the answer.'
            )
            return Note(text, f"{self.id}: no hint {number}")
        text = hints[number - 1]
        more = f'\n\nMore: `get("{self.id}").hint({number + 1})`' if number < len(hints) else ""
        return Note(text + more, f"{self.id}: hint {number} of {len(hints)}")

    def solution(self) -> Source:
        """The source of the very answer that checks compare with, after a word on why; it runs as it stands."""
        answer = self._answer
        source = textwrap.dedent(inspect.getsource(answer.solution)).rstrip()
        why = "\n".join(textwrap.wrap(answer.why, 84, initial_indent="# ", subsequent_indent="# "))
        return Source(f"{why}\n{_imports(source)}\n{source}\n", f"{self.id}: one right answer")

    def use(self, candidate: Any = None) -> Any:
        """``candidate`` if it passes, else the reference: what later cells call."""
        return candidate if self.check(candidate).passed else self.reference


def _imports(source: str) -> str:
    """The imports that a solution's source needs to stand alone."""
    lines = {
        r"\bmath\.": "import math\n",
        r"\btorch\.": "import torch\n",
        r"\bF\.": "import torch.nn.functional as F\n",
        r"\bnn\.": "from torch import nn\n",
    }
    text = "".join(line for pattern, line in lines.items() if re.search(pattern, source))
    return f"\n{text}\n" if text else ""


@functools.cache
def _exercises() -> dict[str, Exercise]:
    package = import_module(__package__)
    names = [m.name for m in pkgutil.iter_modules(package.__path__) if re.fullmatch(r"chapter\d+", m.name)]
    found: dict[str, Exercise] = {}
    for name in sorted(names, key=lambda n: int(n.removeprefix("chapter"))):
        for task in import_module(f"{__package__}.{name}").TASKS:
            found[task.id] = Exercise(task)
    return found


def catalog() -> list[Exercise]:
    """Every exercise, in reading order."""
    return list(_exercises().values())


def get(exercise_id: str) -> Exercise:
    """The exercise with this id.

    Raises:
        KeyError: there is none; the message lists near matches.
    """
    exercises = _exercises()
    if exercise_id in exercises:
        return exercises[exercise_id]
    near = difflib.get_close_matches(str(exercise_id), exercises, n=3, cutoff=0.4)
    known = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(exercises)}"
    raise KeyError(f"no exercise {exercise_id!r}; {known}")
