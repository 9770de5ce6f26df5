"""What is handed out to a class: no outputs, no answers, and every notebook still runs to its end."""

import ast
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest

from attn_course.exercises import catalog, get
from tools import colab, notebooks, repository, student

ROOT = notebooks.ROOT
SOURCES = notebooks.sources()
CHAPTERS = [path.stem for path in SOURCES]
QUICK = "04_complexity"


@pytest.fixture(scope="module")
def texts():
    return student.files()


@pytest.fixture(scope="module")
def handed_out(texts):
    return {name: nbformat.reads(texts[f"{name}.ipynb"], as_version=4) for name in CHAPTERS}


def full(name):
    """The chapter as it is published, answers included."""
    return notebooks.build(next(path for path in SOURCES if path.stem == name), None)


# --- the notebooks --------------------------------------------------------------------------------


def test_every_chapter_is_handed_out_with_a_page_that_says_how_to_start(texts):
    assert set(texts) == {*(f"{name}.ipynb" for name in CHAPTERS), "README.md", "requirements.txt"}
    for name in CHAPTERS:
        assert f"]({name}.ipynb)" in texts["README.md"]
    assert texts["requirements.txt"].startswith(f"attn-course[notebooks] @ git+{repository.current().url}\n")


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_students_notebook_is_valid_and_keeps_nothing_of_our_run(handed_out, name):
    notebook = handed_out[name]
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebooks.code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None
    assert len(notebook.cells) == len(full(name).cells)


@pytest.mark.parametrize("exercise", catalog(), ids=lambda exercise: exercise.id)
def test_an_exercise_stands_there_as_a_stub_with_its_check_below(handed_out, exercise):
    name = CHAPTERS[exercise.chapter - 1]
    cells = [cell.source for cell in handed_out[name].cells]
    (at,) = [number for number, cell in enumerate(cells) if exercise.stub.strip() in cell]
    assert cells[at + 1].startswith(f'get("{exercise.id}").check(')
    stub: dict = {}
    exec("import torch\nfrom torch import nn\n" + cells[at], stub)
    assert exercise.check(stub[exercise.task.name]).passed is None


# --- no answers -----------------------------------------------------------------------------------


def definitions(notebook):
    """Each function and class that the cells define, by name, made by running its definition alone.

    It finds the modules that the notebook imports, and the course's function under each name that a cell gives
    to ``get("exercise").use(…)``.
    """
    trees = [ast.parse(cell.source) for cell in notebooks.code_cells(notebook)]
    nodes = [node for tree in trees for node in tree.body]
    names: dict = {}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(ast.unparse(node), names)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            use = re.fullmatch(r"get\('([\w-]+)'\)\.use\(.*\)", ast.unparse(node.value))
            if use:
                names[node.targets[0].id] = get(use[1]).reference
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            try:
                exec(ast.unparse(node), names)
            except NameError:  # a base class or a decorator of the chapter's own: no answer
                continue
            yield node.name, names[node.name]


def takes(thing, exercise):
    """Whether it could be called as the exercise's function is."""
    if isinstance(thing, type) or exercise.task.wants_class:
        return isinstance(thing, type) and exercise.task.wants_class
    wanted = exercise.task.definition.args.args
    required = len(wanted) - len(exercise.task.optional)
    try:
        inspect.signature(thing).bind(*range(required))
    except TypeError:
        return False
    return True


def answers(notebook, chapter):
    """Exercises of a chapter that something in the notebook answers: by running it, or word for word."""
    found = {}
    exercises = [one for one in catalog() if one.chapter == chapter]
    for name, thing in definitions(notebook):
        for exercise in exercises:
            if takes(thing, exercise) and exercise.check(thing).passed:
                found[exercise.id] = name
    code = "\n".join(ast.unparse(ast.parse(cell.source)) for cell in notebooks.code_cells(notebook))
    for exercise in exercises:
        source = ast.parse(textwrap.dedent(inspect.getsource(exercise.reference))).body[-1]
        body = "\n".join(ast.unparse(node) for node in source.body)
        if in_one_line(body) in in_one_line(code):
            found.setdefault(exercise.id, "its solution")
    return found


def in_one_line(text):
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("name", CHAPTERS)
def test_no_function_that_is_handed_out_answers_an_exercise_and_the_books_own_do(handed_out, name):
    chapter = CHAPTERS.index(name) + 1
    assert answers(handed_out[name], chapter) == {}
    # The checker is checked: in the published chapter it finds every answer.
    asked = {exercise.id for exercise in catalog() if exercise.chapter == chapter}
    assert set(answers(full(name), chapter)) == asked


@pytest.mark.parametrize("name", CHAPTERS)
def test_where_a_definition_is_left_out_the_cell_says_where_it_stands(handed_out, name):
    left_out = [cell.source for cell in handed_out[name].cells if ").reference" in cell.source]
    assert left_out
    for source in left_out:
        assert f"# {repository.current().pages}/notebooks/{name}.html" in source
    assert not any(
        re.search(r"(def|class) \w+(_by_d|ByD)efinition", c.source) for c in handed_out[name].cells
    )


@pytest.mark.parametrize(
    "cell",
    [
        "def one_by_definition():\n    return 1",
        'def one_by_definition():\n    return 1\n\n\nuse = get("one").use(f), get("two").use(g)',
        'def one_by_definition():\n    return 1\n\n\nclass TwoByDefinition:\n    pass\n\n\nget("one").use(f)',
    ],
    ids=["no exercise", "two exercises", "two definitions"],
)
def test_an_answer_that_cannot_be_told_whose_it_is_is_an_error(cell):
    with pytest.raises(ValueError, match=r"one_by_definition.*definitions, but the cell uses"):
        student.without_answers(cell, "page")


def test_definitions_are_replaced_in_their_order_and_everything_else_stays():
    cell = (
        "@decorated\ndef a_by_definition(x):\n    return x\n\n\nclass BByDefinition(nn.Module):\n    pass\n\n\n"
        'x = 1\nfirst = get("one").use(one)\nassert get("two").use(two)(x) == a_by_definition(x)  # still asked\n'
    )
    assert student.without_answers(cell, "PAGE").splitlines() == [
        "# Our definition is left out in this copy; it stands in the book:",
        "# PAGE",
        'a_by_definition = get("one").reference',
        'BByDefinition = get("two").reference',
        "x = 1",
        'first = get("one").use(one)',
        'assert get("two").use(two)(x) == a_by_definition(x)  # still asked',
    ]


# --- links ----------------------------------------------------------------------------------------


def test_links_lead_out_to_the_published_pages_because_colab_knows_no_other_files():
    here = repository.Repository("ada", "attention")
    text = (
        "[a](../book/notation.md), [b](01_x.ipynb#fig-1), [c](#eq-1), [d](https://example.org/x.md), "
        "[e](../results/README.md), f(g)(model.weight), parts[0](x.md)"
    )
    assert student.with_whole_links(text, here, "main") == (
        "[a](https://ada.github.io/attention/book/notation.html), "
        "[b](https://ada.github.io/attention/notebooks/01_x.html#fig-1), [c](#eq-1), "
        "[d](https://example.org/x.md), [e](https://github.com/ada/attention/blob/main/results/README.md), "
        "f(g)(model.weight), parts[0](https://github.com/ada/attention/blob/main/notebooks/x.md)"
    )


@pytest.mark.parametrize("name", CHAPTERS)
def test_no_link_of_a_students_notebook_needs_a_file_that_is_not_there(handed_out, name):
    for cell in handed_out[name].cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"(?<!`)\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", cell.source)):
                assert re.match(r"https://|#", target), target
        assert "../book" not in cell.source


# --- they run -------------------------------------------------------------------------------------


def test_a_students_notebook_runs_to_its_last_cell_with_no_exercise_done(handed_out):
    notebook = nbformat.from_dict(handed_out[QUICK])
    colab.run(notebook, Path(sys.executable))
    counts = [cell.execution_count for cell in notebooks.code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    told = str([cell.outputs for cell in notebooks.code_cells(notebook)])
    assert told.count("not attempted") >= sum(one.chapter == 4 for one in catalog())


# --- the folder -----------------------------------------------------------------------------------


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_the_same_bytes_on_every_run_and_nothing_else_is_written(tmp_path, texts):
    status = ["git", "status", "--porcelain", "--ignored", "--", "notebooks", "student"]
    before = subprocess.run(status, cwd=ROOT, capture_output=True, text=True).stdout
    assert student.main(["--out", str(tmp_path / "a" / "class")]) == 0
    first = contents(tmp_path / "a" / "class")
    assert set(first) == {*texts, student.LIST}
    assert student.main(["--out", str(tmp_path / "a" / "class")]) == 0
    assert contents(tmp_path / "a" / "class") == first
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["class"]
    assert subprocess.run(status, cwd=ROOT, capture_output=True, text=True).stdout == before


def test_git_does_not_see_the_folder():
    for name in ("student/01_x.ipynb", ".student-abc.new/01_x.ipynb"):
        assert subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT).returncode == 0, name


SMALL = {"01_x.ipynb": "{}\n", "README.md": "read\n"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "essay.txt").write_text("mine"),
        lambda folder: (folder / "01_x.ipynb").write_text("my answers"),
        lambda folder: (
            (folder / "sub" / "x").mkdir(parents=True) or (folder / "sub" / "x" / "y").write_text("")
        ),
        lambda folder: (folder / "link").symlink_to("/"),
        lambda folder: (folder / student.LIST).unlink(),
        lambda folder: (folder / student.LIST).write_text("{"),
    ],
    ids=["a file more", "a file changed", "deep down", "a link", "no list", "a broken list"],
)
def test_a_folder_with_somebodys_work_in_it_is_refused_by_name_and_left_alone(tmp_path, spoil):
    folder = tmp_path / "class"
    student.put(folder, SMALL)
    spoil(folder)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"{re.escape(str(folder))} is not empty.*OUT="):
        student.put(folder, {"01_x.ipynb": "new"})
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_an_empty_folder_is_filled_and_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "class").mkdir()
    student.put(tmp_path / "class", SMALL)
    assert set(contents(tmp_path / "class")) == {*SMALL, student.LIST}
    (tmp_path / "file").write_text("x")
    assert student.main(["--out", str(tmp_path / "file")]) == 1
    assert "is a file" in capsys.readouterr().err and (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("fails_at", ["write_text", "rename"])
def test_the_folder_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, fails_at):
    folder = tmp_path / "class"
    student.put(folder, SMALL)
    before, calls, real = contents(folder), [], getattr(Path, fails_at)

    def failing(self, *arguments, **options):
        calls.append(self)
        if len(calls) == 2:
            raise OSError("disk full")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, fails_at, failing)
    with pytest.raises(OSError, match="disk full"):
        student.put(folder, {"01_x.ipynb": "new\n", "README.md": "new\n"})
    monkeypatch.undo()
    assert contents(folder) == before and os.listdir(tmp_path) == ["class"]
