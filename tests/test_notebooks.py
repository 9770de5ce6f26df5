"""The chapters: each rule is a function from a notebook to what breaks it, tried on a bad notebook first."""

import ast
import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import psutil
import pytest
import questions
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import notebooks, repository

ROOT = notebooks.ROOT
CHAPTERS = notebooks.sources()
IDS = [path.stem for path in CHAPTERS]

LONGEST_CODE = 30
LONGEST_PROSE = 130
LONGEST_QUESTION = 80
EXPLANATION = range(12, 61)
CHOICES = range(3, 5)


def tags(cell):
    return set(cell.metadata.get("tags", []))


def where(notebook, cell):
    """A cell as a reader would point at it: its number and its first words."""
    first = next(iter(cell.source.strip().splitlines()), "")
    return f"cell {notebook.cells.index(cell) + 1} ({first[:50]})"


def prose(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def figures(notebook):
    """Code cells whose outputs hold a picture. A live knob is none: a static page cannot show it."""
    return [cell for cell in notebooks.code_cells(notebook) if any(map(_is_picture, cell.outputs))]


def _is_picture(output):
    return any(mime.startswith("image/") for mime in output.get("data", {}))


# --- the rules ------------------------------------------------------------------------------------


def incomplete(notebook):
    """Cells that did not run, in order, to the last one; and errors that nobody asked for."""
    broken = []
    for number, cell in enumerate(notebooks.code_cells(notebook), start=1):
        if cell.execution_count != number:
            broken.append(f"{where(notebook, cell)} ran as number {cell.execution_count}, expected {number}")
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed != ("raises-exception" in tags(cell)):
            broken.append(f"{where(notebook, cell)} {'failed' if failed else 'should have failed'}")
    return broken


def lost_outputs(notebook):
    """Cells that print, show or draw, at their top level, and have nothing stored."""
    return [
        where(notebook, cell)
        for cell in notebooks.code_cells(notebook)
        if not cell.outputs and _shows(cell.source)
    ]


def _shows(source):
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        statements = ast.parse(TransformerManager().transform_cell(source)).body
    except SyntaxError:
        return False
    calls = [s.value for s in statements if isinstance(s, ast.Expr) and isinstance(s.value, ast.Call)]
    names = {ast.unparse(call.func) for call in calls}
    return bool(names & {"print", "display", "say", "glue", "plt.show"})


def unasserted(notebook):
    """Cells whose output is not compared and that assert nothing."""
    ignored = [cell for cell in notebooks.code_cells(notebook) if _is_ignored(cell)]
    return [where(notebook, cell) for cell in ignored if not _asserts(cell.source)]


def _is_ignored(cell):
    marks = {"nbval-ignore-output", "nbval-skip"} & tags(cell)
    return bool(marks) or re.search(r"^\s*#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source, re.MULTILINE)


def _asserts(source):
    try:
        return any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(source)))
    except SyntaxError:
        return False


def set_up(notebook):
    """What is wrong with the set-up cell: it comes first, leaves torch alone, installs from our address."""
    cells = notebooks.code_cells(notebook)
    if not cells or not notebooks.is_setup(cells[0]):
        return ["the first code cell is not tagged setup"]
    broken = [
        f"{where(notebook, cell)} is a second set-up cell" for cell in cells[1:] if notebooks.is_setup(cell)
    ]
    source = cells[0].source
    if "--no-deps" not in source or re.search(r"--upgrade|\"-U\"|torch[=<>]=", source):
        broken.append("the set-up cell may change Colab's torch or numpy: it must install with --no-deps")
    if f'"{repository.current().url}"' not in source and f"git+{repository.current().url}" not in source:
        broken.append("the set-up cell does not install from the repository's address")
    return broken


ROLE = re.compile(r"(?<!`)\{[a-z][\w:.-]*\}`")
FENCE = re.compile(r"^\s*(?:`{3,}|~{3,}|:{3,})\s*\{[\w:.-]+\}|^\s*:{3,}\s*$", re.MULTILINE)
LABEL = re.compile(r"^\([\w:.-]+\)=\s*$|^\+\+\+", re.MULTILINE)


def raw_markup(notebook):
    """Roles, directives and labels of the book's language, which Colab and GitHub would show as they are."""
    texts = [(where(notebook, cell), cell.source) for cell in prose(notebook)]
    for cell in notebooks.code_cells(notebook):
        shown = [output.get("data", {}).get("text/markdown", "") for output in cell.outputs]
        texts += [(where(notebook, cell), text) for text in shown]
    found = []
    for place, text in texts:
        for pattern in (ROLE, FENCE, LABEL):
            found += [
                f"{place}: {match[0].strip()}" for match in pattern.finditer(_without_code(text, pattern))
            ]
    return found


def _without_code(text, pattern):
    return text if pattern is FENCE else re.sub(r"```.*?```|``.*?``", "", text, flags=re.DOTALL)


def undescribed(notebook):
    """Pictures without a name, a caption or alternative text in the cell's metadata."""
    broken = []
    for cell in figures(notebook):
        about = cell.metadata.get("mystnb", {})
        drawn, alt = about.get("figure", {}), about.get("image", {}).get("alt", "")
        lacks = [key for key in ("name", "caption") if not drawn.get(key)] + ([] if alt.strip() else ["alt"])
        if lacks:
            broken.append(f"{where(notebook, cell)} lacks {', '.join(lacks)}")
        elif not drawn["name"].startswith("fig-") or alt.strip() == drawn["caption"].strip():
            broken.append(
                f"{where(notebook, cell)}: a name starts with fig-, and alt is not the caption again"
            )
    names = [cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for cell in figures(notebook)]
    return broken + [f"{name} is used twice" for name in {n for n in names if n and names.count(n) > 1}]


def too_long(notebook):
    """Code cells of more than 30 lines, and a median far from 6."""
    lengths = {id(cell): _lines(cell) for cell in notebooks.code_cells(notebook, setup=False)}
    cells = notebooks.code_cells(notebook, setup=False)
    broken = [
        f"{where(notebook, cell)} has {lengths[id(cell)]} lines, at most {LONGEST_CODE}; the package takes more"
        for cell in cells
        if lengths[id(cell)] > LONGEST_CODE
    ]
    median = statistics.median(lengths.values()) if lengths else 6
    return broken + (
        [f"the median code cell has {median:g} lines, about 6 are wanted"] if median > 10 else []
    )


def _lines(cell):
    return len([line for line in cell.source.splitlines() if line.strip()])


def wordy(notebook):
    """Prose cells of more than 130 words, formulas, tables, code and quoted exercises apart."""
    cells = [cell for cell in prose(notebook) if not questions.is_question(cell)]
    counts = [(cell, len(_words(cell.source))) for cell in cells]
    return [f"{where(notebook, cell)} has {count} words" for cell, count in counts if count > LONGEST_PROSE]


def _words(text):
    text = re.sub(r"\$\$.*?\$\$|```.*?```", " ", text, flags=re.DOTALL)
    kept = [line for line in text.splitlines() if not line.lstrip().startswith(("|", ">"))]
    return re.findall(r"\w+(?:['’-]\w+)*", re.sub(r"\$[^$]*\$|\]\([^)]*\)|<[^>]*>", " ", "\n".join(kept)))


def unasked(notebook):
    """What is wrong with the questions at the end: their number, their place, and each of them."""
    asked = questions.of(notebook)
    found = [f"question {one.number}: {fault}" for one in asked for fault in _faults(one)]
    if not 3 <= len(asked) <= 5:
        found.append(f"{len(asked)} questions, expected 3 to 5")
    if [one.number for one in asked] != list(range(1, len(asked) + 1)):
        found.append(f"the questions are numbered {[one.number for one in asked]}")
    names = [name for one in asked for name in one.names]
    chapters = {name.split("-question-")[0] for name in names}
    if len(chapters) > 1 or names != [
        f"{chapter}-question-{i}" for chapter in chapters for i, _ in enumerate(asked, 1)
    ]:
        found.append(f"the folds are named {names}, expected chapter-N-question-1 and so on")
    cells = [cell.source if cell.cell_type == "markdown" else "" for cell in notebook.cells]
    headings = [i for i, text in enumerate(cells) if text.split("\n")[0] == questions.HEADING]
    after = [f"**Question {i}.**" for i in range(1, len(asked) + 1)] + ["## What we know now"]
    if len(headings) != 1 or [
        text.startswith(start) for text, start in zip(cells[headings[0] + 1 :], after, strict=False)
    ] != [True] * len(after):
        found.append(f"expected {questions.HEADING}, the questions, and then ## What we know now")
    return found


def _faults(question):
    """What is wrong with one question, by itself."""
    rights = [choice.letter for choice in question.choices if choice.right]
    letters = "".join(choice.letter for choice in question.choices)
    if question.left:
        yield f"neither asked nor a choice: {question.left[:60]}"
    if len(question.choices) not in CHOICES or letters != "ABCD"[: len(letters)]:
        yield f"its choices are {letters}, expected ABC or ABCD"
    if len(rights) != 1 or any(choice.right is None for choice in question.choices):
        yield f"right are {rights}; each explanation begins with Right or Not quite, and one is right"
    if len(question.names) != 1:
        yield f"its choices have the names {sorted(question.names)}, expected one, so that one is open at a time"
    if len(questions.words(question.asked)) > LONGEST_QUESTION or "?" not in question.asked:
        yield f"it asks in {len(questions.words(question.asked))} words, at most {LONGEST_QUESTION}, and with a ?"
    for choice in question.choices:
        if len(questions.words(choice.why)) not in EXPLANATION:
            yield f"{choice.letter} is explained in {len(questions.words(choice.why))} words, expected 12 to 60"
        if re.search(r"[$`*]|\b(all|none) of (the|these)\b", choice.text):
            yield f"{choice.letter} is not plain words, or is no choice of its own: {choice.text}"
    if len({choice.text for choice in question.choices}) < len(question.choices):
        yield "two choices are the same"


def speechless(notebook):
    """Places where three code cells follow each other without prose; a cell that writes prose is prose."""
    found, run = [], 0
    for cell in notebook.cells:
        speaks = cell.cell_type != "code" or "remove-input" in tags(cell)
        run = 0 if speaks else run + 1
        if run == 3:
            found.append(where(notebook, cell))
    return found


def miscounted_figures(notebook):
    number = len(figures(notebook))
    return [] if 4 <= number <= 8 else [f"{number} figures, expected 4 to 8"]


def frame(notebook):
    """The opening and the end that every chapter has."""
    cells = prose(notebook)
    text = "\n\n".join(cell.source for cell in cells)
    opening = "\n\n".join(cell.source for cell in cells[:2]).lower()
    broken = []
    if not cells or notebook.cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        broken.append("the first cell is not the title")
    if len(re.findall(r"^# ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)) != 1:
        broken.append("not exactly one title (#)")
    if not re.search(r"\bminutes\b", opening):
        broken.append("the opening does not say how many minutes the chapter takes")
    if not cells or f"{repository.current().url}/issues" not in cells[-1].source:
        broken.append("the last prose cell has no link to report an error (…/issues)")
    return broken


RULES = [
    incomplete, lost_outputs, unasserted, set_up, raw_markup, undescribed, too_long, wordy, speechless,
    miscounted_figures, frame, unasked,
]  # fmt: skip


# --- the rules, on the chapters -------------------------------------------------------------------


def test_there_is_a_chapter():
    assert CHAPTERS, "notebooks/ holds no chapter"


@pytest.mark.parametrize("source", CHAPTERS, ids=IDS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_chapter_keeps_the_rule(rule, source):
    notebook = notebooks.load(source.with_suffix(".ipynb"))
    assert notebook is not None, f"{source.stem} has no stored run: make notebooks"
    assert rule(notebook) == []


@pytest.mark.parametrize("source", CHAPTERS, ids=IDS)
def test_stored_outputs_are_those_of_the_code_as_it_is_now(source):
    assert notebooks.reasons(source) == [], "make book"


@pytest.mark.parametrize("source", CHAPTERS, ids=IDS)
def test_the_notebook_says_what_its_source_says(source):
    path = source.with_suffix(".ipynb")
    expected = notebooks.text_of(notebooks.build(source, notebooks.load(path)))
    assert path.read_text(encoding="utf-8") == expected, f"{path.name} and {source.name} differ: make book"


@pytest.mark.parametrize("source", CHAPTERS, ids=IDS)
def test_the_stored_run_says_which_machine_and_which_versions(source):
    record = notebooks.load(source.with_suffix(".ipynb")).metadata["attn_course"]
    assert {"python", "torch", "numpy"} <= set(record["versions"]) and len(record["machine"].split()) >= 3


def test_the_set_up_cell_is_the_same_in_every_chapter():
    cells = [notebooks.code_cells(jupytext.read(path))[0] for path in CHAPTERS]
    assert len({cell.source for cell in cells}) == 1


def test_every_notebook_has_its_source():
    assert {path.stem for path in notebooks.FOLDER.glob("*.ipynb")} == set(IDS)


# --- the rules, on bad notebooks ------------------------------------------------------------------

URL = repository.current().url
SETUP = f'import sys\nrun([sys.executable, "-m", "pip", "install", "--no-deps", "git+{URL}"])\nassert True'
PNG = "iVBORw0KGgo="


def code(source, *outputs, tags=(), count=1, **metadata):
    cell = new_code_cell(source, outputs=list(outputs), execution_count=count)
    cell.metadata.update(nbformat.from_dict({"tags": list(tags), **metadata}))
    return cell


def printed(text="1\n"):
    return new_output("stream", name="stdout", text=text)


def picture():
    return new_output("display_data", {"image/png": PNG, "text/plain": "<Figure>"})


def drawn(
    name="fig-weights", caption="Where each token looks.", alt="A square map, brighter on its diagonal."
):
    about = {"figure": {"name": name, "caption": caption}, "image": {"alt": alt}}
    return code("plot()", picture(), mystnb={k: {a: b for a, b in v.items() if b} for k, v in about.items()})


def numbered(*cells):
    """A notebook whose code cells ran one after the other."""
    for number, cell in enumerate((cell for cell in cells if cell.cell_type == "code"), start=1):
        cell.execution_count = number
    return new_notebook(cells=list(cells))


WHY = "It says in some twelve words or more why it is so, at $x = 1$."


def asked(number, right="B", letters="ABC"):
    """A question whose right choice is the named one."""
    parts = [f"**Question {number}.** Which of them, and why?"]
    for letter in letters:
        verdict = "Right." if letter == right else "Not quite."
        name = f"chapter-1-question-{number}"
        parts += [f'<details name="{name}"><summary>{letter}. A choice {letter}</summary>']
        parts += [f"**{verdict}** {WHY}", "</details>"]
    return new_markdown_cell("\n\n".join(parts))


def good():
    """A small notebook that keeps every rule."""
    figures = []
    for number in range(4):
        figures += [drawn(f"fig-{number}"), new_markdown_cell(f"What figure {number} shows.")]
    return numbered(
        new_markdown_cell("# A chapter\n\nIt takes 20 minutes."),
        code(SETUP, printed(), tags=["setup", "nbval-ignore-output"]),
        new_markdown_cell("Some prose with $x$ and `code`, and [figure](#fig-0)."),
        *figures,
        new_markdown_cell("## Questions\n\nDecide first."),
        *(asked(number) for number in (1, 2, 3)),
        new_markdown_cell("## What we know now"),
        code("print(1)", printed()),
        new_markdown_cell(f"The end. [Report an error]({URL}/issues)."),
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_keeps_the_rule(rule):
    assert rule(good()) == []


def error():
    return new_output("error", ename="ValueError", evalue="no", traceback=[])


BAD = {
    "a cell that did not run": (incomplete, lambda n: n.cells[-2].update(execution_count=None)),
    "cells that ran in another order": (incomplete, lambda n: n.cells[-2].update(execution_count=3)),
    "an error nobody asked for": (incomplete, lambda n: n.cells[-2].outputs.append(error())),
    "a failure that did not happen": (
        incomplete,
        lambda n: n.cells[-2].metadata.update(tags=["raises-exception"]),
    ),
    "a print without its output": (lost_outputs, lambda n: n.cells[-2].update(outputs=[])),
    "an ignored cell without a claim": (
        unasserted,
        lambda n: n.cells[-2].metadata.update(tags=["nbval-ignore-output"]),
    ),
    "an ignored cell, by a comment": (
        unasserted,
        lambda n: n.cells[-2].update(source="# NBVAL_IGNORE_OUTPUT\nprint(1)"),
    ),
    "no set-up cell": (set_up, lambda n: n.cells[1].metadata.update(tags=[])),
    "a set-up cell that updates torch": (
        set_up,
        lambda n: n.cells[1].update(source=SETUP.replace("--no-deps", "--upgrade")),
    ),
    "a set-up cell with another address": (
        set_up,
        lambda n: n.cells[1].update(source=SETUP.replace(URL, "https://github.com/a/b")),
    ),
    "a second set-up cell": (set_up, lambda n: n.cells[-2].metadata.update(tags=["setup"])),
    "a role": (raw_markup, lambda n: n.cells[2].update(source="See {numref}`fig-0`.")),
    "a directive": (raw_markup, lambda n: n.cells[2].update(source="```{note}\nA note.\n```")),
    "a directive with colons": (raw_markup, lambda n: n.cells[2].update(source=":::{tip}\nA tip.\n:::")),
    "a label": (raw_markup, lambda n: n.cells[2].update(source="(here)=\nText.")),
    "a role that a cell prints": (
        raw_markup,
        lambda n: n.cells[-2].outputs.append(new_output("display_data", {"text/markdown": "{glue}`x`"})),
    ),
    "a figure without alternative text": (
        undescribed,
        lambda n: n.cells[3].metadata.mystnb.image.update(alt=" "),
    ),
    "a figure without a caption": (undescribed, lambda n: n.cells[3].metadata.mystnb.figure.pop("caption")),
    "a figure without any of it": (undescribed, lambda n: n.cells[3].metadata.pop("mystnb")),
    "two figures of one name": (
        undescribed,
        lambda n: n.cells[5].metadata.mystnb.figure.update(name="fig-0"),
    ),
    "the caption as alternative text": (
        undescribed,
        lambda n: n.cells[3].metadata.mystnb.image.update(alt="Where each token looks."),
    ),
    "a code cell of 31 lines": (too_long, lambda n: n.cells[-2].update(source="print(1)\n" * 31)),
    "code cells that are long in general": (
        too_long,
        lambda n: [cell.update(source="f()\n" * 15) for cell in n.cells[3:] if cell.cell_type == "code"],
    ),
    "a prose cell of 131 words": (wordy, lambda n: n.cells[2].update(source="word " * 131)),
    "three code cells in a row": (
        speechless,
        lambda n: n.cells.__setitem__(slice(4, 4), [code("a = 1"), code("b = 1")]),
    ),
    "three figures": (miscounted_figures, lambda n: n.cells[3].update(outputs=[])),
    "nine figures": (miscounted_figures, lambda n: n.cells.extend(drawn(f"fig-x{i}") for i in range(5))),
    "no title": (frame, lambda n: n.cells[0].update(source="It takes 20 minutes.")),
    "two titles": (frame, lambda n: n.cells[2].update(source="# Another")),
    "no minutes": (frame, lambda n: n.cells[0].update(source="# A chapter")),
    "no way to report an error": (frame, lambda n: n.cells[-1].update(source="The end.")),
    "two questions": (unasked, lambda n: n.cells.remove(question(n, 3))),
    "six questions": (unasked, lambda n: insert(n, *(asked(i) for i in (4, 5, 6)))),
    "a question left out of the count": (unasked, lambda n: insert(n, asked(5))),
    "questions of no heading": (unasked, lambda n: respell(n, questions.HEADING, "## Exam", heading=True)),
    "questions in another place": (unasked, lambda n: n.cells.insert(3, n.cells.pop(-3))),
    "a choice without an explanation": (unasked, lambda n: respell(n, WHY, "No.")),
    "a choice that explains too much": (unasked, lambda n: respell(n, WHY, "word " * 61)),
    "two right choices": (unasked, lambda n: respell(n, "Not quite.", "Right.")),
    "no right choice": (unasked, lambda n: respell(n, "Right.", "Not quite.")),
    "a choice that does not say what it is": (unasked, lambda n: respell(n, "**Not quite.** ", "")),
    "two choices": (unasked, lambda n: question(n, 2).update(source=asked(2, letters="AB").source)),
    "five choices": (unasked, lambda n: question(n, 2).update(source=asked(2, letters="ABCDE").source)),
    "choices in disorder": (unasked, lambda n: question(n, 2).update(source=asked(2, letters="ACB").source)),
    "a name of another question": (unasked, lambda n: respell(n, "question-2", "question-1", every=True)),
    "a fold with a name of its own": (unasked, lambda n: respell(n, "question-2", "question-9")),
    "a question of 81 words": (unasked, lambda n: respell(n, "Which of them", "Which of them " + "x " * 81)),
    "a question that asks nothing": (unasked, lambda n: respell(n, "and why?", "and why.")),
    "a formula where none is drawn": (unasked, lambda n: respell(n, "A choice A", "It is $x$")),
    "the same choice twice": (unasked, lambda n: respell(n, "A choice A", "A choice B")),
    "all of the above": (unasked, lambda n: respell(n, "A choice C", "All of them: all of the above")),
    "a fold closed inside a paragraph": (unasked, lambda n: respell(n, "\n\n</details>", "\n</details>")),
    "an explanation that is no Markdown": (unasked, lambda n: respell(n, "</summary>\n\n", "</summary>\n")),
    "a fold that is not closed": (unasked, lambda n: respell(n, "</details>", "")),
}


def question(notebook, number):
    (cell,) = [cell for cell in notebook.cells if cell.source.startswith(f"**Question {number}.**")]
    return cell


def insert(notebook, *cells):
    """More questions behind the third one."""
    at = notebook.cells.index(question(notebook, 3)) + 1
    notebook.cells[at:at] = cells


def respell(notebook, old, new, *, heading=False, every=False):
    """Change some words of the second question, once or everywhere, or of the heading."""
    headings = [cell for cell in notebook.cells if cell.source.startswith(questions.HEADING)]
    cell = headings[0] if heading else question(notebook, 2)
    assert old in cell.source
    cell.source = cell.source.replace(old, new, -1 if every else 1)


@pytest.mark.parametrize("fault", BAD)
def test_the_rule_finds(fault):
    rule, spoil = BAD[fault]
    notebook = good()
    spoil(notebook)
    assert rule(notebook), f"{rule.__name__} did not see: {fault}"


def test_a_code_cell_of_exactly_30_lines_and_prose_of_130_words_are_allowed():
    notebook = good()
    notebook.cells[-2].source = "print(1)\n" * LONGEST_CODE
    notebook.cells[2].source = "word " * LONGEST_PROSE
    assert too_long(notebook) == [] and wordy(notebook) == []


def test_a_question_has_limits_of_its_own_and_other_prose_keeps_those_of_prose():
    notebook = good()
    respell(notebook, "Which of them", "word " * (LONGEST_QUESTION - 4) + "and")
    respell(notebook, WHY, "word " * EXPLANATION[-1], every=True)
    assert unasked(notebook) == [] and wordy(notebook) == []
    notebook.cells[2].source = "word " * (LONGEST_PROSE + 1)
    assert wordy(notebook)


def test_braces_in_formulas_and_in_code_are_no_roles():
    notebook = good()
    notebook.cells[
        2
    ].source = '$\\frac{a}{b}$, `f"{x}"`, `{name}`, ``{numref}`x` `` and\n```python\n{a}`\n```'
    assert raw_markup(notebook) == []


# --- fingerprints and runs ------------------------------------------------------------------------

CHAPTER = """\
# %% [markdown]
# # Title

# %% tags=["setup"]
print("set-up")

# %%
import sys

sys.path.insert(0, "..")
from attn_course.tiny import f

f(2)

# %%
object()

# %%
from pathlib import Path

print(*(path.read_text() for path in Path("../results").glob("r*.json")))
"""
TINY = 'def f(x):\n    """Twice x."""\n    return 2 * x  # twice\n'


@pytest.fixture
def course(tmp_path):
    """A course of one small chapter, with a package and a record of its own."""
    for folder in ("notebooks", "attn_course", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "attn_course" / "__init__.py").write_text("")
    (tmp_path / "attn_course" / "tiny.py").write_text(TINY)
    (tmp_path / "attn_course" / "machine.py").write_text(
        'def versions():\n    return {"python": "3"}\n\n\ndef describe():\n    return "a machine of paper"\n'
    )
    (tmp_path / "results" / "record.json").write_text("{}")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    (tmp_path / "notebooks" / "01_one.py").write_text(CHAPTER)
    return tmp_path


def run(course, *, force=False):
    return notebooks.update([], force, folder=course / "notebooks", root=course)


def why(course):
    return notebooks.reasons(course / "notebooks" / "01_one.py", course)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def ran(course, monkeypatch):
    """The same after its first run; the package that the kernel imports is the small one."""
    monkeypatch.setenv("PYTHONPATH", str(course))
    assert run(course) == 0
    return course


def test_a_chapters_life_from_its_first_run_to_its_last(ran, capsys, monkeypatch):
    source = ran / "notebooks" / "01_one.py"
    path = source.with_suffix(".ipynb")
    first = path.read_bytes()
    stored = notebooks.load(path)
    assert [cell.execution_count for cell in notebooks.code_cells(stored)] == [1, 2, 3, 4]
    assert set(stored.metadata.attn_course.files) == {
        "attn_course/__init__.py",
        "attn_course/tiny.py",
        "results/record.json",
    }
    assert stored.metadata.attn_course.folders == {"results": ["record.json"]}
    assert stored.metadata.attn_course.machine == "a machine of paper"
    assert b"object at 0x" in first and not re.search(rb"0x[0-9a-f]{6}", first)

    # Nothing changed: nothing to do, and a forced run gives the same bytes.
    assert why(ran) == []
    assert run(ran, force=True) == 0 and path.read_bytes() == first

    # What does not count: prose (carried over without a run), comments, docstrings, the set-up cell.
    edit(source, "# # Title", "# # Another title")
    edit(source, 'print("set-up")', 'print("set-up, again")')
    edit(ran / "attn_course" / "tiny.py", "Twice x.", "Two times x.")
    edit(ran / "attn_course" / "tiny.py", "# twice", "# doubled")
    assert why(ran) == []
    capsys.readouterr()
    assert run(ran) == 0
    assert "prose carried over" in capsys.readouterr().out and b"Another title" in path.read_bytes()
    kept = notebooks.load(path)
    assert [c.outputs for c in notebooks.code_cells(kept)] == [
        c.outputs for c in notebooks.code_cells(stored)
    ]

    # A failing cell: the old notebook stays, the message names notebook, cell and error.
    kept = path.read_bytes()
    edit(source, "f(2)", "f(2) / 0")
    assert run(ran) == 1 and path.read_bytes() == kept
    told = capsys.readouterr()
    assert "its code changed, from code cell 1 on" in told.out
    assert "01_one.py: cell 3 failed" in told.err and "ZeroDivisionError" in told.err


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda c: edit(c / "notebooks/01_one.py", "f(2)", "f(3)"), "its code changed, from code cell 1 on"),
        (lambda c: edit(c / "attn_course/tiny.py", "2 * x", "3 * x"), "attn_course/tiny.py changed"),
        (lambda c: (c / "attn_course/tiny.py").unlink(), "attn_course/tiny.py is gone"),
        (lambda c: (c / "results/record.json").write_text("[]"), "results/record.json changed"),
        (lambda c: (c / "results/room-13.json").write_text("{}"), "results/room-13.json is new"),
        (lambda c: (c / "notebooks/01_one.ipynb").unlink(), "no stored run"),
        (lambda c: (c / "notebooks/01_one.ipynb").write_text("{"), "no stored run"),
        (
            lambda c: edit(c / "notebooks/01_one.ipynb", '"execution_count": 4', '"execution_count": 9'),
            "not complete",
        ),
    ],
    ids=["code", "module", "module gone", "record", "another record", "missing", "broken", "incomplete"],
)
def test_a_change_that_counts_makes_the_notebook_out_of_date(course, spoil, reason):
    paper(course)
    assert why(course) == []
    spoil(course)
    assert any(reason in line for line in why(course)), why(course)


def test_a_new_pin_of_a_library_that_the_notebook_imported_makes_it_out_of_date(course):
    paper(course)
    (course / "constraints.txt").write_text("torch==2.14.0\nnumpy==9.9.9\n")
    assert why(course) == ["torch is pinned to 2.14.0, it ran with 2.13.0"]


def test_an_interrupt_keeps_what_was_finished_and_ends_the_kernels(course):
    (course / "notebooks" / "02_slow.py").write_text("# %%\nimport time\n\ntime.sleep(60)\n")
    code = f"from pathlib import Path; from tools import notebooks; root = Path({str(course)!r}); "
    code += "raise SystemExit(notebooks.update([], False, folder=root / 'notebooks', root=root))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(course), str(ROOT)])}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, cwd=course, stderr=subprocess.PIPE
    )
    finished = course / "notebooks" / "01_one.ipynb"
    deadline = time.monotonic() + 60
    while not finished.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and b"interrupted; what was finished is stored" in told
    assert why(course) == [] and not (course / "notebooks" / "02_slow.ipynb").exists()
    assert kernels and not any(kernel.is_running() for kernel in kernels)


def test_notebooks_that_time_things_run_and_are_checked_alone(course, monkeypatch):
    alone = "# ---\n# jupyter:\n#   attn_course:\n#     alone: true\n# ---\n\n# %%\nx = 1\n"
    for name, text in (("02_two", CHAPTER), ("03_timed", alone)):
        (course / "notebooks" / f"{name}.py").write_text(text)
    for source in notebooks.sources(folder=course / "notebooks"):
        notebooks.synchronise(source)
    runs = []

    def run(command, env, **_):
        runs.append(([Path(part).stem for part in command if part.endswith(".ipynb")], "-n" in command, env))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(notebooks.subprocess, "run", run)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert notebooks.check([], lax=False, folder=course / "notebooks") == 0
    (first, spread, side_by_side), (second, spread_alone, by_itself) = runs
    assert (first, spread, second, spread_alone) == (["01_one", "02_two"], True, ["03_timed"], False)
    assert side_by_side["OMP_NUM_THREADS"] == by_itself["OMP_NUM_THREADS"] == "1"

    order = []

    async def rerun(path, root):
        order.append(path.stem)

    monkeypatch.setattr(notebooks, "rerun", rerun)
    asyncio.run(notebooks.rerun_all(notebooks.sources(["03", "01"], course / "notebooks")[::-1], course))
    assert order == ["01_one", "03_timed"]


def test_a_check_without_stored_notebooks_fails(course, capsys):
    assert notebooks.check([], lax=False, folder=course / "notebooks") == 1
    assert "nothing stored for 01_one.ipynb" in capsys.readouterr().err


def test_an_unknown_name_is_answered_with_the_names_there_are(course):
    with pytest.raises(SystemExit, match=r"no notebook 99; there are: 01_one"):
        notebooks.sources(["99"], course / "notebooks")


def paper(course):
    """Store a run without running: the same record that a run writes."""
    source = course / "notebooks" / "01_one.py"
    notebook = notebooks.build(source, None)
    for number, cell in enumerate(notebooks.code_cells(notebook), start=1):
        cell.execution_count = number
    modules = [str(course / "attn_course" / "tiny.py")]
    told = {
        "modules": modules,
        "read": [str(course / "results/record.json"), "/etc/hostname"],
        "listed": [str(course / "results"), str(course / "notebooks"), "/etc"],
        "versions": {"torch": "2.13.0+cpu"},
        "shown": {"python": "3"},
        "machine": "paper",
    }
    notebook.metadata["attn_course"] = notebooks._record(notebook, told, course)
    notebooks.write(source.with_suffix(".ipynb"), notebooks.text_of(notebook))


def test_an_insertion_leaves_the_ids_of_the_other_cells_alone(tmp_path):
    source = tmp_path / "01_x.py"
    source.write_text("# %%\na = 1\n\n# %%\na = 1\n\n# %%\nb = 2\n")
    before = [cell.id for cell in notebooks.build(source, None).cells]
    source.write_text("# %%\nnew = 0\n\n# %%\na = 1\n\n# %%\na = 1\n\n# %%\nb = 2\n")
    after = [cell.id for cell in notebooks.build(source, None).cells]
    assert after[1:] == before and len(set(after)) == 4


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.ipynb"
    path.write_text("old")
    monkeypatch.setattr(notebooks.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        notebooks.write(path, "new")
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("x = 1", "x = 1  # one", True),
        ("def f():\n    '''A.'''\n    return 1", "def f():\n    '''B.'''\n\n    return 1", True),
        ("def f():\n    '''A.'''", "def f():\n    '''B.'''", True),
        ("x = 1", "x = 2", False),
        ("x = 'a'", "x = b'a'", False),
        ("def f(a): return a", "def f(a, b=1): return a", False),
        ("x = (1, 2)", "x = [1, 2]", False),
        ("x = 1", "x = True", False),
    ],
)
def test_comments_and_docstrings_are_no_code(before, after, same):
    assert (notebooks.hash_of_module(before) == notebooks.hash_of_module(after)) is same
    assert (notebooks.hash_of_cell(before) == notebooks.hash_of_cell(after)) is same


def test_a_bare_string_in_a_cell_is_an_output_and_counts():
    assert notebooks.hash_of_cell("'a'") != notebooks.hash_of_cell("'b'")
    assert notebooks.hash_of_module("'a'") == notebooks.hash_of_module("'b'")


def test_progress_bars_go_and_what_else_a_cell_says_stays():
    bar = " 33%|###3      | 1/3 [00:00<00:00, 99.1it/s]\r100%|##########| 3/3 [00:00<00:00, 98.2it/s]\n"
    view = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "0" * 32},
        "text/plain": "  0%|  | 0/3 [00:00<?]",
    }
    outputs = [
        new_output("stream", name="stderr", text=bar + "a warning\n"),
        new_output("stream", name="stdout", text="one\n"),
        new_output("display_data", view),
        new_output("stream", name="stdout", text="two\n"),
    ]
    kept = notebooks.steady(outputs)
    assert [(one.name, one.text) for one in kept] == [("stderr", "a warning\n"), ("stdout", "one\ntwo\n")]
    assert notebooks.steady([new_output("stream", name="stderr", text=bar)]) == []


def test_random_ids_become_numbers_in_order_of_appearance():
    one, two = "a" * 32, "0f8fad5b-d9cb-469f-a165-70867728950e"
    html = f"<p id='{one}'></p><p id='{two}'></p><p for='{one}'></p>"
    notebook = new_notebook(
        cells=[code("x", new_output("display_data", {"text/html": html, "text/plain": one}))]
    )
    notebooks.number_ids(notebook)
    data = notebook.cells[0].outputs[0].data
    assert data["text/html"] == html.replace(one, f"{1:032x}").replace(two, f"{2:032x}")
    assert data["text/plain"] == one


def test_the_place_of_the_course_on_the_disk_does_not_enter_an_output():
    text = f"{Path(notebooks.ROOT)}/attn_course/cnn.py:3: UserWarning\n"
    text += "/a/b/site-packages/torch/nn.py:1: <x at 0x7f00aa11>"
    (kept,) = notebooks.steady([new_output("stream", name="stdout", text=text)])
    assert kept.text == "./attn_course/cnn.py:3: UserWarning\nsite-packages/torch/nn.py:1: <x at 0x…>"
