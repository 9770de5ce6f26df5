"""An environment like Colab's: the set-up cell brings the package into it, and all that the notebooks use is there."""

import ast
import copy
import importlib.metadata
import json
import re
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tools import colab, notebooks

ROOT = notebooks.ROOT
SOURCES = notebooks.sources()


# --- the whole of it ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def there():
    """The environment with the package in it; what the trial found wrong."""
    with colab.as_in_colab() as (python, wrong):
        print("\nas in Colab:", ", ".join(f"{k} {v}" for k, v in colab.versions(python).items()))
        yield python, wrong


def test_the_set_up_cell_brings_the_package_and_everything_that_the_notebooks_use_works(there):
    assert there[1] == []


def test_the_environment_has_colabs_versions_and_only_torch_and_python_are_ours(there):
    have, wanted = colab.installed(there[0]), notebooks.pins(colab.PINS)
    assert {name: have.get(name) for name in wanted} == wanted
    strange = set(have) - set(wanted) - {"attn-course"}
    torch = importlib.metadata.version("torch")
    assert have["torch"] == torch and strange <= {"torch", "triton"} | {
        n for n in have if "nvidia" in n or "cuda" in n
    }
    assert (have["ipython"][:2], have["ipywidgets"][:2]) == ("7.", "7.")
    assert colab.versions(there[0])["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_quickest_chapter_runs_to_its_last_cell_in_colabs_kernel(there):
    (source,) = notebooks.sources([colab.QUICKEST])
    notebook = colab.chapter(source)
    notebook.cells.append(
        new_code_cell(
            "import IPython, ipykernel\nprint(IPython.__version__, ipykernel.__version__, attn_course.__file__)"
        )
    )
    colab.run(notebook, there[0])
    counts = [cell.execution_count for cell in notebooks.code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert re.match(
        r"7\.34\.0 6\.17\.1 .*colab/lib/python3\.\d+/site-packages/attn_course/",
        colab._text(notebook.cells[-1]),
    )


def test_a_name_a_keyword_or_a_module_that_is_not_there_is_found_there(there):
    notebook = colab.trial(Path("wheel"))
    wanted = {
        "pandas.DataFrame.nowhere": [],
        "attn_course.plots.masks": ["no_such_keyword"],
        "notebook_of_nobody": [],
        "IPython.display.display": ["raw"],
        "IPython.core.tips.pick_tip": [],  # came with IPython 9: not there
    }
    source = re.sub(r"missing\(\{.*\}\)\)\)\Z", f"missing({wanted!r})))", notebook.cells[1].source)
    small = new_notebook(cells=[new_code_cell(source)])
    colab.run(small, there[0])
    found = json.loads(colab._text(small.cells[0]))
    assert len(found) == 4
    assert found[0] == "no nowhere in pandas.DataFrame (for pandas.DataFrame.nowhere)"
    assert found[1] == "attn_course.plots.masks takes no no_such_keyword="
    assert found[2] == "no module notebook_of_nobody" and "tips" in found[3]


# --- its parts ------------------------------------------------------------------------------------


def book(*cells):
    return new_notebook(cells=[new_code_cell(cell) for cell in cells])


def test_names_are_spelled_out_with_the_keywords_of_their_calls():
    found = colab.used(
        book(
            "import attn_course, os.path\nimport torch.nn.functional as F\nfrom attn_course import plots as p",
            "F.relu(x, inplace=True)\np.masks(m, side=3)\np.masks(n, **more)",
            "print(attn_course.MultiHeadAttention(8, 2).eval())\nvalue.attribute.of_nobody",
        )
    )
    assert found == {
        "attn_course": [],
        "attn_course.MultiHeadAttention": [],
        "attn_course.plots": [],
        "attn_course.plots.masks": ["side"],
        "os.path": [],
        "torch.nn.functional": [],
        "torch.nn.functional.relu": ["inplace"],
    }


def test_a_name_that_is_given_to_something_else_says_nothing_about_a_module():
    assert colab.used(book("from a import b, c", "b = 3\nb.real", "def f(c):\n    return c.x")) == {
        "a.b": [],
        "a.c": [],
    }


@pytest.mark.parametrize("source", SOURCES, ids=[path.stem for path in SOURCES])
def test_every_import_of_a_chapter_is_among_its_names(source):
    names = colab.used(colab.chapter(source))
    for cell in notebooks.code_cells(colab.chapter(source)):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom):
                assert {f"{node.module}.{alias.name}" for alias in node.names} <= set(names)
            elif isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= set(names)
    assert len([name for name in names if name.startswith("attn_course.")]) > 8 and colab.missing(names) == []


def test_the_set_up_cell_must_name_the_repository_once_and_leave_dependencies_alone():
    cell = next(cell.source for cell in colab.chapter(SOURCES[0]).cells if notebooks.is_setup(cell))
    assert "'w.whl'" in colab.set_up(cell, Path("w.whl")) and "git+" not in colab.set_up(cell, Path("w.whl"))
    for spoiled in (cell.replace("git+", ""), cell.replace('"--no-deps"', '"-U"'), cell + cell):
        with pytest.raises(ValueError, match=r"git\+"):
            colab.set_up(spoiled, Path("w.whl"))


def test_the_list_of_versions_says_its_source_its_date_and_nothing_but_exact_versions(tmp_path):
    about = colab.published()
    assert about["source"].endswith("googlecolab/backend-info") and re.fullmatch(
        r"\d+ \w+ 20\d\d", about["date"]
    )
    lines = [line for line in colab.PINS.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines) and lines == sorted(
        lines, key=lambda line: line.split("=")[0]
    )
    (tmp_path / "x.txt").write_text("# Source: https://example.org/x, of some day\nnumpy==2.1.3\n")
    with pytest.raises(ValueError, match=r"x\.txt does not say its date, commit, python"):
        colab.published(tmp_path / "x.txt")


# --- the record -----------------------------------------------------------------------------------


def test_the_record_is_of_the_chapters_as_they_are_now():
    """A chapter's page says when it last passed: it has to be this chapter that passed."""
    old = colab.stale(colab.load(), SOURCES)
    assert old == {}, "run `make colab`: " + "; ".join(f"{name}: {why}" for name, why in old.items())


def edited(source, tmp_path, text):
    path = tmp_path / source.name
    path.write_text(source.read_text() + text)
    return path


def test_a_record_is_stale_when_code_names_versions_or_package_changed_and_not_when_prose_did(
    tmp_path, monkeypatch
):
    source = SOURCES[1]
    record = {"chapters": {source.stem: {"passed": "2026-01-01", **colab.state(source)}}}
    assert colab.stale(record, [source]) == {}
    changed = edited(source, tmp_path, "\n# %% [markdown]\n# More prose.\n")
    assert colab.stale(record, [changed]) == {}
    changed = edited(source, tmp_path, "\n# %%\nx = 1\n")
    assert colab.stale(record, [changed]) == {source.stem: "its code changed"}
    changed = edited(source, tmp_path, "\n# %%\ntorch.fft.fft(x)\n")
    assert "it uses other names" in colab.stale(record, [changed])[source.stem]
    assert colab.stale({}, [source]) == {source.stem: "it never passed"}
    for key, why in (
        ("package", "the package has another version"),
        ("constraints", "Colab's versions changed"),
    ):
        other = copy.deepcopy(record)
        other["chapters"][source.stem][key] = "0"
        assert colab.stale(other, [source]) == {source.stem: why}


class Fake:
    """Runs nothing, and fails on the chapters that it is told to."""

    def __init__(self, *bad):
        self.bad, self.ran = bad, []

    def __call__(self, notebook, python):
        title = notebook.cells[0].source
        self.ran.append(title.splitlines()[0])
        if any(word in title for word in self.bad):
            raise TimeoutError("a cell took too long")


def test_only_what_changed_is_run_again_and_a_failure_keeps_what_passed(tmp_path, monkeypatch, capsys):
    from contextlib import nullcontext

    record = tmp_path / "colab" / "run.json"
    record.parent.mkdir()
    monkeypatch.setattr(colab, "RECORD", record)
    monkeypatch.setattr(colab, "load", lambda: json.loads(record.read_text()) if record.exists() else {})
    monkeypatch.setattr(colab, "as_in_colab", lambda: nullcontext((Path("python"), [])))
    monkeypatch.setattr(colab, "versions", lambda python: {"python": "3"})
    some = SOURCES[:3]
    monkeypatch.setattr(
        notebooks, "sources", lambda names=None: [p for p in some if not names or names[0] in p.stem]
    )
    monkeypatch.setattr(colab, "run", first := Fake("Positional"))
    assert colab.record([], force=False) == 1 and len(first.ran) == len(some)
    told = json.loads(record.read_text())
    assert list(told["chapters"]) == [some[0].stem, some[2].stem]
    assert "a cell took too long" in capsys.readouterr().err
    monkeypatch.setattr(colab, "run", second := Fake())
    assert colab.record([], force=False) == 0 and len(second.ran) == 1
    assert list(json.loads(record.read_text())["chapters"]) == [path.stem for path in some]
    assert colab.record([], force=False) == 0 and len(second.ran) == 1
    assert colab.record(["03"], force=True) == 0 and len(second.ran) == 2


def test_nothing_is_recorded_where_the_trial_found_something_wrong(tmp_path, monkeypatch, capsys):
    from contextlib import nullcontext

    monkeypatch.setattr(colab, "RECORD", tmp_path / "run.json")
    monkeypatch.setattr(colab, "load", dict)
    monkeypatch.setattr(colab, "as_in_colab", lambda: nullcontext((Path("python"), ["no picture"])))
    assert colab.record([], force=False) == 1 and not (tmp_path / "run.json").exists()
    assert "no picture" in capsys.readouterr().err


def tried():
    """A trial as it looks when all went well."""
    notebook = colab.trial(Path("wheel"))
    shown = {
        "text/plain": "x",
        colab.WIDGET: {},
        colab.FIGURE: {},
        "image/png": "x",
        "text/html": "causal-mask: passed",
    }
    for cell in notebook.cells:
        text = "Python 3\n[]\n"
        cell.outputs = [
            {"output_type": "stream", "name": "stdout", "text": text},
            {"output_type": "display_data", "data": dict(shown), "metadata": {}},
        ]
    from nbformat import from_dict

    return from_dict(notebook)


@pytest.mark.parametrize(
    ("number", "mime", "word"),
    [
        (2, "text/html", "panel"),
        (3, "image/png", "picture"),
        (4, colab.WIDGET, "make"),
        (5, colab.FIGURE, "make"),
    ],
)
def test_a_trial_that_shows_too_little_is_a_fault(number, mime, word):
    assert colab.faults(tried()) == []
    bad = tried()
    del bad.cells[number].outputs[1]["data"][mime]
    (told,) = colab.faults(bad)
    assert word in told


def test_every_interactive_figure_is_tried():
    names = {path.stem for path in (ROOT / "attn_course" / "widgets").glob("*.js")} - {"kit"}
    sources = "\n".join(cell.source for cell in colab.trial(Path("wheel")).cells)
    assert {name for name in names if f"figures/{name}.py" not in sources} == set()
