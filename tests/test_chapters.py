"""What the chapters take from the package stands in them as the package says it."""

import re
from pathlib import Path

import jupytext
import pytest
import questions

from attn_course.exercises import catalog

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
CHAPTERS = {int(path.name[:2]): path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))}


def cells(path: Path, kind: str) -> list[str]:
    return [cell.source.strip() for cell in jupytext.read(path).cells if cell.cell_type == kind]


def quoted(prompt: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in f"**Exercise.** {prompt.strip()}".split("\n"))


@pytest.mark.parametrize("exercise", catalog(), ids=lambda exercise: exercise.id)
def test_prompt_stub_and_check_of_an_exercise_stand_in_its_chapter_in_this_order(exercise):
    path = CHAPTERS[exercise.chapter]
    prompts, code = cells(path, "markdown"), cells(path, "code")
    assert any(quoted(exercise.prompt) in prompt for prompt in prompts)
    stub = code.index(exercise.stub.strip())
    assert code[stub + 1].startswith(f'get("{exercise.id}").check(')
    used = [number for number, cell in enumerate(code) if f'get("{exercise.id}").use(' in cell]
    assert used and used[0] > stub + 1


@pytest.mark.parametrize("number", CHAPTERS)
def test_a_chapter_checks_only_exercises_that_there_are(number):
    known = {exercise.id for exercise in catalog() if exercise.chapter == number}
    code = "\n".join(cells(CHAPTERS[number], "code"))
    named = {part.split('"')[0] for part in code.split('get("')[1:]}
    assert named == known


# --- Questions ------------------------------------------------------------------------------------


ASKED = {number: questions.of(jupytext.read(path)) for number, path in CHAPTERS.items()}
EVERY = [question for asked in ASKED.values() for question in asked]


@pytest.mark.parametrize("number", CHAPTERS)
def test_the_folds_of_a_question_carry_the_number_of_its_chapter(number):
    names = [name for question in ASKED[number] for name in question.names]
    assert names == [f"chapter-{number}-question-{i}" for i in range(1, len(ASKED[number]) + 1)]


@pytest.mark.parametrize("number", CHAPTERS)
def test_a_section_that_an_explanation_names_is_one_of_its_chapter(number):
    headings = [line.lstrip("#").strip() for text in cells(CHAPTERS[number], "markdown")
                for line in text.splitlines() if line.startswith("##")]  # fmt: skip
    why = " ".join(choice.why for question in ASKED[number] for choice in question.choices)
    listed = re.findall(r"sections? ((?:\*[^*]+\*(?: and )?)+)", " ".join(why.split()))
    named = [name for names in listed for name in re.findall(r"\*([^*]+)\*", names)]
    assert named and [name for name in named if not any(head.startswith(name) for head in headings)] == []


def uneven(letters):
    """What gives right answers away by their place, where each stands among at least three choices."""
    counts = {letter: letters.count(letter) for letter in "ABC"}
    wrong = [f"{n} of {len(letters)} are {x}" for x, n in counts.items() if not 0.2 < n / len(letters) < 0.5]
    runs = [letters[i : i + 3] for i in range(len(letters) - 2)]
    return wrong + [f"three times {run[0]}" for run in runs if len(set(run)) == 1]


def test_no_place_is_right_more_often_than_the_others():
    assert uneven("".join(question.answer.letter for question in EVERY)) == []
    for number, asked in ASKED.items():
        assert len({question.answer.letter for question in asked}) > 1, f"chapter {number}"


@pytest.mark.parametrize("letters", ["ABC" * 4 + "BBB", "A" + "BCA" * 4 + "BAB" * 9, "AB" * 9, "AABB" * 5])
def test_an_uneven_choice_of_places_is_seen(letters):
    assert uneven(letters)
    assert uneven("ABCCAB" * 5) == []


def test_the_right_choice_is_not_known_by_its_length():
    longest = [max(question.choices, key=lambda choice: len(choice.text)) for question in EVERY]
    share = sum(choice.right for choice in longest) / len(EVERY)
    assert 0.15 < share < 0.5, f"the right one is the longest in {share:.0%} of the questions"
