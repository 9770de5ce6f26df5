"""What the chapters take from the package stands in them as the package says it."""

from pathlib import Path

import jupytext
import pytest

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
