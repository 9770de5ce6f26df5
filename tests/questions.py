"""The questions at the end of a chapter, read from its cells: what is asked, and what each choice says of itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import unescape
from typing import Any

HEADING = "## Questions"
VERDICTS = {"Right.": True, "Not quite.": False}
_OPENING = re.compile(r"\*\*Question (\d+)\.\*\* ")
_CHOICE = re.compile(
    r'^<details name="(?P<name>[^"]*)"><summary>(?P<letter>[A-Z])\. (?P<text>[^\n]*)</summary>\n'
    r"\n(?P<said>[^<]*?)\n\n</details>$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Choice:
    """One choice: its letter, its words, whether it is right, and why or why not."""

    letter: str
    text: str
    right: bool | None
    why: str


@dataclass(frozen=True)
class Question:
    """One question: its number, the names of its folds, what is asked, its choices, and what is none of these."""

    number: int
    names: set[str]
    asked: str
    choices: tuple[Choice, ...]
    left: str

    @property
    def answer(self) -> Choice:
        (right,) = [choice for choice in self.choices if choice.right]
        return right


def words(text: str) -> list[str]:
    """The words of a text; a formula or a piece of code is one."""
    text = re.sub(r"\$[^$]*\$|`[^`]*`", " x ", re.sub(r"\]\([^)]*\)", " ", text))
    return re.findall(r"\w+(?:['’./,-]\w+)*", text)


def is_question(cell: Any) -> bool:
    return cell.cell_type == "markdown" and bool(_OPENING.match(cell.source))


def read(source: str) -> Question:
    """The question that a cell holds."""
    opening = _OPENING.match(source)
    assert opening, source[:60]
    asked, *_ = source[opening.end() :].split("<details", 1)
    choices = []
    for found in _CHOICE.finditer(source):
        verdict = re.match(r"\*\*([^*]+)\*\* ", found["said"])
        right = VERDICTS.get(verdict[1]) if verdict else None
        why = found["said"][verdict.end() :] if verdict else found["said"]
        choices.append(Choice(found["letter"], unescape(found["text"]), right, why))
    left = _CHOICE.sub("", source[opening.end() + len(asked) :]).strip()
    names = {found["name"] for found in _CHOICE.finditer(source)}
    return Question(int(opening[1]), names, asked.strip(), tuple(choices), left)


def of(notebook: Any) -> list[Question]:
    """The questions of a chapter, in their order."""
    return [read(cell.source) for cell in notebook.cells if is_question(cell)]
