"""What the page for instructors shows of the chapters, the exercises and the last run with Colab's versions.

```{chapter-table}                      chapters, what each needs, minutes, number of exercises
```{chapter-aims} 3                     a chapter's aims, needs and minutes, from its opening cell
```{known-mistakes} 3                   mistakes that the checkers know, those named in the body first
split-heads: interleaved
```{colab-versions}                     what the chapters last ran with
```{grades-example}                     what `attn-course grade` writes of a small class
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import date
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)

OPENING = re.compile(
    r"\A# (?P<title>.+?)\n+\*\*After this chapter you can\*\* (?P<aims>.+?)\n\n"
    r"\*\*You need\*\* (?P<needs>.+?) \*\*It takes\*\* about (?P<minutes>\d+) minutes "
    r"with its \w+ exercises, (?P<without>\d+) without",
    re.DOTALL,
)
EXERCISE = re.compile(r'\bget\("([\w-]+)"\)\.check\(')


class Chapter(NamedTuple):
    """What a chapter's notebook says of itself."""

    number: int
    name: str
    title: str
    aims: str
    needs: str
    minutes: int
    without: int
    exercises: tuple[str, ...]


def chapter(path: Path) -> Chapter:
    """Read a stored notebook.

    Raises:
        ValueError: its first cell does not say aims, needs and minutes as every chapter does.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    opening = re.sub(r"(?<!\n)\n(?!\n)", " ", texts[0].replace("\n\n", "\n\n", 1))
    found = OPENING.match(opening)
    if found is None:
        raise ValueError(
            f"{path.name}: the first cell does not say aims, needs and minutes in the usual words"
        )
    said = {key: re.sub(r"\s+", " ", value).strip() for key, value in found.groupdict().items()}
    # Its links are relative to the notebooks' folder, the page's to its own.
    said = {key: re.sub(r"\]\((?=\d\d_)", "](../notebooks/", value) for key, value in said.items()}
    exercises = [match for text in texts for match in EXERCISE.findall(text)]
    return Chapter(
        int(path.name[:2]), path.stem, said["title"], said["aims"], said["needs"].rstrip("."),
        int(said["minutes"]), int(said["without"]), tuple(dict.fromkeys(exercises)),
    )  # fmt: skip


def chapters(root: Path) -> list[Chapter]:
    """All chapters, in reading order."""
    return [chapter(path) for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))]


# --- Markdown -------------------------------------------------------------------------------------


def table(found: list[Chapter]) -> list[str]:
    """Chapters, what each needs, its minutes."""
    lines = [
        "| chapter | needs | minutes | exercises |",
        "|---|---|---:|---:|",
    ]
    for one in found:
        link = f"[{one.number}. {one.title.split(':')[0]}](../notebooks/{one.name}.ipynb)"
        lines.append(f"| {link} | {one.needs} | {one.minutes} ({one.without}) | {len(one.exercises)} |")
    minutes, without, exercises = (
        sum(values) for values in zip(*((c.minutes, c.without, len(c.exercises)) for c in found), strict=True)
    )
    return [*lines, f"| **All** | | **{minutes} ({without})** | **{exercises}** |"]


def aims(one: Chapter) -> list[str]:
    """A chapter's aims, needs and minutes."""
    count = len(one.exercises)
    return [
        f"After it learners can {one.aims}",
        "",
        f"Needs: {one.needs}. Takes: {one.minutes} minutes with its {count} exercises, {one.without} without.",
    ]


# An invented class: what each handed in of two exercises, a mistake of the bank or a status; and one no notebook.
CLASS = {
    "ada": {"causal-mask": "passed", "split-heads": "passed"},
    "ben": {"causal-mask": "transposed", "split-heads": "reshape-for-transpose"},
    "cleo": {"causal-mask": "passed", "split-heads": "reshape-for-transpose"},
    "dan": {"causal-mask": "passed", "split-heads": "not attempted"},
}
NO_NOTEBOOK = {"student": "eve", "file": "eve/essay.docx", "message": ".docx: expected .ipynb or .py"}


def grades_example() -> list[str]:
    """The summary that the grader writes of `CLASS`, without its heading."""
    from attn_course import grading

    unsaid = {"seed": 0, "sha256": "", "course": ""}
    rows = []
    for student, handed_in in CLASS.items():
        about = {"student": student, "file": f"{student}/01.ipynb", "chapter": 1, **unsaid}
        for exercise, found in handed_in.items():
            outcome = {"status": found, "points": int(found == "passed"), "diagnosis": "", "message": ""}
            if found not in grading.STATUSES:
                says = dict(grading.mistakes(exercise))[found]
                outcome = {"status": "wrong", "points": 0, "diagnosis": found, "message": says}
            rows.append(grading.Row(**about, exercise=exercise, **outcome))
    nothing = {"chapter": 0, "exercise": "", "status": "refused", "points": 0, "diagnosis": ""}
    rows.append(grading.Row(**NO_NOTEBOOK, **nothing, **unsaid))
    return grading.summary(rows).splitlines()[2:]


def picked(body: Iterable[str], known: dict[str, dict[str, str]]) -> list[tuple[str, str]]:
    """``exercise: mistake mistake`` lines, as pairs.

    Raises:
        ValueError: an exercise or a mistake that the chapter's checkers do not know.
    """
    found = []
    for line in filter(None, map(str.strip, body)):
        exercise, _, names = line.partition(":")
        for name in names.split():
            if name not in known.get(exercise, {}):
                raise ValueError(f"no mistake {name!r} of an exercise {exercise!r} in this chapter")
            found.append((exercise, name))
    return found


def bank(number: int) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The mistakes that a chapter's checkers know, exercise -> id -> what the learner is told; and the titles."""
    from attn_course.exercises import catalog
    from attn_course.exercises.judge import answer

    here = [exercise for exercise in catalog() if exercise.chapter == number]
    known = {one.id: {mistake.id: mistake.says for mistake in answer(one.task).mistakes} for one in here}
    return known, {one.id: one.title for one in here}


def passed(root: Path) -> dict[str, str]:
    """Chapter -> the day on which it last ran to its end with Colab's versions, in words."""
    path = root / "results" / "colab" / "run.json"
    told = json.loads(path.read_text(encoding="utf-8"))["chapters"] if path.exists() else {}
    return {name: _day(run["passed"]) for name, run in told.items()}


def _day(iso: str) -> str:
    day = date.fromisoformat(iso)
    return f"{day.day} {day:%B %Y}"


def colab_versions(root: Path) -> list[str]:
    """When the chapters last ran to their end with Colab's versions, and which those were."""
    told = json.loads((root / "results" / "colab" / "run.json").read_text(encoding="utf-8"))
    about, runs = told["colab"], told["chapters"]
    sets: dict[str, list[str]] = {}
    for name, run in sorted(runs.items()):
        have = dict(run["versions"])
        ours = " and ".join(f"{key} {have.pop(key)}" for key in ("python", "torch"))
        listed = ", ".join(f"{key} {value}" for key, value in have.items())
        sets.setdefault(f"{listed}; {ours} were ours", []).append(str(int(name[:2])))
    lines = [
        f"Versions{'' if len(sets) == 1 else ' in chapters ' + ', '.join(numbers)}: {versions}.\n"
        for versions, numbers in sets.items()
    ]
    rows = [
        f"| {int(name[:2])} | {_day(run['passed'])} | {run['seconds']} s |"
        for name, run in sorted(runs.items())
    ]
    machines = " and ".join(sorted({run["machine"] for run in runs.values()}))
    return [
        f"Colab's versions are those of [its list]({about['source']}) of {about['date']}; its Python was then "
        f"{about['python']}. With them, without a graphics card, on {machines}, each chapter last ran to its end:",
        "",
        "| chapter | on | all its cells took |",
        "|---:|---|---:|",
        *rows,
        "",
        *"\n".join(lines).splitlines(),
    ]


# --- directives -----------------------------------------------------------------------------------


class _Generated(SphinxDirective):
    """A directive that writes Markdown and has it parsed as if it stood in the page."""

    optional_arguments = 1

    def markdown(self, lines: list[str]) -> list[nodes.Node]:
        holder = nodes.container()
        self.state.nested_parse(StringList(lines, source=self.env.docname), self.content_offset, holder)
        return holder.children

    @property
    def root(self) -> Path:
        return Path(self.env.app.srcdir)

    def chapter(self) -> Chapter:
        """The chapter that the argument numbers."""
        found = {str(one.number): one for one in chapters(self.root)}
        if not self.arguments or self.arguments[0] not in found:
            raise ValueError(f"{self.name} needs a chapter's number, one of {', '.join(found)}")
        return found[self.arguments[0]]

    def run(self) -> list[nodes.Node]:
        try:
            return self.made()
        except (ValueError, OSError) as error:
            logger.warning(str(error), location=self.get_location())
            return []

    def made(self) -> list[nodes.Node]:
        raise NotImplementedError


class ChapterTable(_Generated):
    def made(self) -> list[nodes.Node]:
        return self.markdown(table(chapters(self.root)))


class ChapterAims(_Generated):
    def made(self) -> list[nodes.Node]:
        return self.markdown(aims(self.chapter()))


class GradesExample(_Generated):
    def made(self) -> list[nodes.Node]:
        return self.markdown(grades_example())


class ColabVersions(_Generated):
    def made(self) -> list[nodes.Node]:
        return self.markdown(colab_versions(self.root))


class KnownMistakes(_Generated):
    """Mistakes worth the class's time, then all that the checkers know, folded."""

    has_content = True

    def made(self) -> list[nodes.Node]:
        known, titles = bank(self.chapter().number)
        shown = [
            f"- `{exercise}`, *{name}*: {known[exercise][name]}"
            for exercise, name in picked(self.content, known)
        ]
        made = self.markdown(shown)
        for exercise, mistakes in known.items():
            summary = f"{titles[exercise]} ({exercise}): all {len(mistakes)} that the checker knows"
            made.append(_html(f'<details class="known-mistakes"><summary>{escape(summary)}</summary>'))
            made += self.markdown([f"- *{name}*: {says}" for name, says in mistakes.items()])
            made.append(_html("</details>"))
        return made


def _html(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def setup(app: Sphinx) -> dict[str, Any]:
    for name, directive in (
        ("chapter-table", ChapterTable),
        ("chapter-aims", ChapterAims),
        ("known-mistakes", KnownMistakes),
        ("colab-versions", ColabVersions),
        ("grades-example", GradesExample),
    ):
        app.add_directive(name, directive)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
