"""The page for instructors: its commands exist, its minutes add up, and what it says of chapters comes from them."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from attn_book import teaching

from attn_course import cli
from attn_course.exercises import catalog
from tools import notebooks, repository

ROOT = notebooks.ROOT
PAGE = (ROOT / "book" / "instructors.md").read_text(encoding="utf-8")
CHAPTERS = teaching.chapters(ROOT)


# --- commands -------------------------------------------------------------------------------------


def commands(text):
    """Every command that a page tells its reader to run: lines of shell blocks, and inline code."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines() if line]
    inline = re.findall(
        r"`((?:make|attn-course) [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )
    return lines + inline


def wrong(command):
    """Why a command would not be understood, or None."""
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
        variables = set(re.findall(r"\$\(([A-Z]+)\)", makefile))
        asked = [word for word in words[1:] if "=" not in word]
        given = {word.partition("=")[0] for word in words[1:] if "=" in word}
        if len(asked) != 1 or asked[0] not in targets:
            return f"no target {' '.join(asked)}"
        return f"no variable {', '.join(given - variables)}" if given - variables else None
    if words[0] != "attn-course":
        return f"no command {words[0]}"
    try:
        cli._parser().parse_args(words[1:])
    except SystemExit:
        return "the parser refuses it"
    return None


def test_every_command_of_the_page_exists():
    found = commands(PAGE)
    assert {"make book", "make student", "make bench", "make scenarios", "make experiments"} <= set(found)
    assert any("set-repository" in one for one in found)
    assert any(one.startswith("attn-course check ") for one in found)
    assert any(one.startswith("attn-course grade ") for one in found)
    assert {one: wrong(one) for one in found if wrong(one)} == {}


@pytest.mark.parametrize(
    "command",
    [
        "make studnet",
        "make bench NONSENSE=1",
        "attn-course grade x --outt y",
        "attn-course mark x",
        "grade x",
    ],
)
def test_a_command_that_does_not_exist_is_found(command, capsys):
    assert wrong(command)
    assert commands(f"a\n\n```sh\n{command}\n```\n") == [command]


# --- minutes --------------------------------------------------------------------------------------


def meetings(text):
    """Name of a meeting -> the minutes that it says, and those of its parts."""
    found = {}
    head = r"^\| ([^|\n]* of \d+ minutes[^|\n]*|[^|\n]*meetings of \d+ minutes) \| minutes \|\n\|[-:| ]+\n"
    for name, body in re.findall(head + r"((?:\|.*\n)+)", text, re.MULTILINE):
        parts = [int(line.rstrip("| ").rpartition("|")[2]) for line in body.splitlines()]
        found[name] = (int(re.search(r"(\d+) minutes", name)[1]), parts)
    return found


def test_the_parts_of_a_meeting_add_up_to_it():
    found = meetings(PAGE)
    assert len(found) == 5
    assert {name: sum(parts) for name, (_, parts) in found.items()} == {
        name: all_ for name, (all_, _) in found.items()
    }


def sections():
    """Chapter's number -> its section."""
    parts = re.split(r"^### Chapter (\d+)$", PAGE, flags=re.MULTILINE)
    return {
        int(n): re.split(r"^## ", text, flags=re.MULTILINE)[0]
        for n, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_every_chapter_has_its_section_with_its_own_aims_and_mistakes():
    assert list(sections()) == [one.number for one in CHAPTERS]
    for number, text in sections().items():
        assert f"```{{chapter-aims}} {number}\n" in text and f"```{{known-mistakes}} {number}\n" in text
        assert "**Show.** " in text and "**Ask.** " in text


@pytest.mark.parametrize("one", CHAPTERS, ids=[one.name for one in CHAPTERS])
def test_every_exercise_is_done_in_class_or_at_home_in_the_minutes_that_the_chapter_gives_them(one):
    (line,) = re.findall(r"^\*\*In class\.\*\* .*$", sections()[one.number], re.MULTILINE)
    minutes = {name: int(number) for name, number in re.findall(r"`([\w-]+)` \((\d+)\)", line)}
    assert set(minutes) == set(one.exercises) and len(re.findall(r"\(\d+\)", line)) == len(minutes)
    assert sum(minutes.values()) == one.minutes - one.without
    in_class = re.findall(r"\((\d+)\)", line.partition("**At home.**")[0])
    room = next(parts for name, (_, parts) in meetings(PAGE).items() if "seven" in name)
    assert sum(map(int, in_class)) <= max(room)


def test_exercises_that_the_plans_name_are_exercises():
    plans = PAGE.partition("## Chapter by chapter")[0]
    named = set(re.findall(r"(?:write |Homework[^.]*?)`([\w-]+)`", plans))
    assert len(named) > 8 and named <= {exercise.id for exercise in catalog()}


# --- what is read from elsewhere ------------------------------------------------------------------


def test_chapters_say_their_aims_their_needs_and_their_minutes():
    assert [one.name for one in CHAPTERS] == [path.stem for path in notebooks.sources()]
    for one in CHAPTERS:
        assert one.title and one.aims.endswith(".") and one.needs
        assert 0 < one.without < one.minutes
        assert set(one.exercises) == {exercise.id for exercise in catalog() if exercise.chapter == one.number}
    lines = teaching.table(CHAPTERS)
    assert lines[-1].startswith("| **All**") and f"**{len(catalog())}**" in lines[-1]


OPENING = (
    "# A: what?\n\n**After this chapter you can** do\nit.\n\n**You need** [one](01_x.ipynb) and two. "
    "**It takes** about 9\nminutes with its two exercises, 4 without. More."
)


def a_chapter(tmp_path, opening):
    cells = [opening, 'get("a").check(a)', 'get("b").check(b)']
    path = tmp_path / "02_y.ipynb"
    path.write_text(json.dumps({"cells": [{"source": [text]} for text in cells]}))
    return teaching.chapter(path)


def test_an_opening_cell_is_read_whatever_its_line_breaks(tmp_path):
    one = a_chapter(tmp_path, OPENING)
    assert one == (
        2,
        "02_y",
        "A: what?",
        "do it.",
        "[one](../notebooks/01_x.ipynb) and two",
        9,
        4,
        ("a", "b"),
    )


@pytest.mark.parametrize(
    "gone", ["# A", "**After this chapter you can**", "**You need**", "about 9", "4 without"]
)
def test_an_opening_cell_that_lacks_something_is_an_error_with_the_notebooks_name(tmp_path, gone):
    with pytest.raises(ValueError, match=r"02_y\.ipynb: the first cell"):
        a_chapter(tmp_path, OPENING.replace(gone, ""))


def test_mistakes_are_those_that_the_checkers_know_in_their_words():
    known, titles = teaching.bank(1)
    assert set(known) == set(titles) == {exercise.id for exercise in catalog() if exercise.chapter == 1}
    assert teaching.picked(["", "split-heads: interleaved not-transposed"], known) == [
        ("split-heads", "interleaved"),
        ("split-heads", "not-transposed"),
    ]
    for line in ("split-heads: no-such", "no-such: interleaved", "to-tokens: batch-joined"):
        with pytest.raises(ValueError, match="no mistake"):
            teaching.picked([line], known)


def test_the_day_of_the_last_run_is_told_in_words_and_only_where_there_was_one(tmp_path):
    assert teaching.passed(tmp_path) == {}
    folder = tmp_path / "results" / "colab"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"chapters": {"01_x": {"passed": "2026-02-03"}}}')
    assert teaching.passed(tmp_path) == {"01_x": "3 February 2026"}
    assert set(teaching.passed(ROOT)) == {one.name for one in CHAPTERS}


def test_every_chapters_page_says_under_its_title_when_it_last_ran_with_colabs_versions():
    """In the built book, which other tests of this run have made."""
    command = [sys.executable, str(ROOT / "tools" / "site.py"), "build"]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    html = ROOT / "_build" / "html"
    for name, day in teaching.passed(ROOT).items():
        text = (html / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        (launch,) = re.findall(r'<p class="launch">.*?</p>', text, re.DOTALL)
        assert f"<small>Last ran to its end with Colab's libraries (except torch) on {day}.</small>" in launch
    page = (html / "book" / "instructors.html").read_text(encoding="utf-8")
    known = sum(len(teaching.bank(one.number)[0][exercise]) for one in CHAPTERS for exercise in one.exercises)
    folded = re.findall(r"<summary>[^<]* \(([\w-]+)\): all (\d+) that the checker knows</summary>", page)
    assert [name for name, _ in folded] == [exercise.id for exercise in catalog()]
    assert sum(int(number) for _, number in folded) == known
    assert repository.current().url not in PAGE
