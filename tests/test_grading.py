"""Notebooks checked and folders graded: the right answers pass, the wrong ones are named, nothing is lost."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from attn_course import cli, grading
from attn_course.exercises import catalog, get
from attn_course.exercises.judge import answer, judge
from attn_course.exercises.runner import Fault, Observation, Report, Seen, observe
from attn_course.grading import inmate, wire
from attn_course.grading.grade import COLUMNS
from tools import notebooks

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = notebooks.sources()
RIGHT = "import torch\n\n\ndef causal_mask(n):\n    return torch.ones(n, n).tril().bool()\n"
WRONG = "import torch\n\n\ndef causal_mask(n):\n    return torch.ones(n, n).triu().bool()\n"
CHECK = '\nget("causal-mask").check(causal_mask)\n'


@pytest.fixture(scope="module")
def sandbox():
    with grading.Sandbox(grading.Allowance(seconds=40)) as opened:
        yield opened


def filled(chapter: Path, written: dict[str, str]) -> str:
    """A chapter's notebook (JSON) with these answers in place of its stubs."""
    notebook = json.loads(chapter.with_suffix(".ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        for name, text in written.items():
            stub = get(name).task
            if cell["cell_type"] == "code" and f" {stub.name}(" in source and "your code here" in source:
                cell["source"] = text
    return json.dumps(notebook)


def by_exercise(rows: list[grading.Row]) -> dict[str, grading.Row]:
    return {row.exercise: row for row in rows}


# --- One notebook -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_with_the_right_answers_passes_whole(chapter, sandbox, tmp_path):
    number = int(chapter.stem[:2])
    mine = [exercise for exercise in catalog() if exercise.chapter == number]
    path = tmp_path / "done.ipynb"
    path.write_text(filled(chapter, {exercise.id: str(exercise.solution()) for exercise in mine}))
    rows = grading.check_file(path, sandbox, seed=11)
    assert [(row.exercise, row.status) for row in rows] == [(exercise.id, "passed") for exercise in mine]


@pytest.mark.parametrize("suffix", [".ipynb", ".py"])
def test_a_notebook_as_it_is_handed_out_is_not_attempted(suffix, sandbox):
    rows = [
        row for chapter in CHAPTERS[:2] for row in grading.check_file(chapter.with_suffix(suffix), sandbox, 3)
    ]
    assert {row.status for row in rows} == {"not attempted"} and len(rows) == 12
    assert sum(row.points for row in rows) == 0


def test_known_mistakes_come_back_by_their_names(sandbox, tmp_path):
    written = {
        "causal-mask": WRONG,
        "merge-heads": "def merge_heads(x):\n    return x.reshape(x.shape[0], x.shape[2], -1)\n",
        "padding-mask": "def padding_mask(lengths, n):\n    return lengths[:, None, None, None] <= torch.arange(n)\n",
    }
    path = tmp_path / "wrong.ipynb"
    path.write_text(filled(CHAPTERS[0], written))
    rows = by_exercise(grading.check_file(path, sandbox, 5))
    for name, text in written.items():
        space = {"torch": __import__("torch")}
        exec(text, space)
        task = get(name).task
        told = judge(task, observe(task, space[task.name], 5), 5)
        assert rows[name].status == "wrong" and rows[name].diagnosis == told.diagnosis, name
        assert rows[name].message == " ".join(told.message.split())[:1000]
    assert {rows[name].diagnosis for name in written} <= {
        m for name in written for m, _ in grading.mistakes(name)
    }


def test_an_answer_takes_what_it_needs_from_other_cells_and_nothing_else_runs(sandbox, tmp_path):
    path = tmp_path / "spread.py"
    path.write_text(
        "# %% [markdown]\n# def causal_mask(n): return 1\n# %%\nimport torch as t\nraise SystemExit\n"
        "# %%\nslow = sum(iter(int, 1))\ndef ones(n):\n    return t.ones(n, n)\n"
        "# %%\n!pip install nothing\n%matplotlib inline\nscale = 1\n"
        "# %%\ncausal_mask = lambda n: below(ones(n)).bool()\n"
        "# %%\ndef below(x):\n    return x.tril() * scale\n# %%\ndef broken(:\n"
        f"# %%\n%%bash\nrm -rf /\n# %%{CHECK}"
    )
    rows = by_exercise(grading.check_file(path, sandbox, 5))
    assert rows["causal-mask"].status == "passed" and rows["split-heads"].status == "missing"
    submission = grading.read(path)
    assert submission.answer(get("causal-mask").task) == [
        "import torch as t", "def ones(n):\n    return t.ones(n, n)", "scale = 1",
        "causal_mask = lambda n: below(ones(n)).bool()", "def below(x):\n    return x.tril() * scale",
    ]  # fmt: skip
    assert [text.split(":")[0] for text in submission.remarks] == [f"code cell {n}" for n in (3, 6, 7)]


RESTS = """
class MultiHeadAttention(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.w_q, self.w_k, self.w_v, self.w_o = (nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, query, key, value, mask=None):
        q, k, v = (split(x, self.num_heads) for x in (self.w_q(query), self.w_k(key), self.w_v(value)))
        output, weights = attention(q, k, v, mask)
        return self.w_o(merge(output)), weights
"""


@pytest.mark.parametrize("own", ["stubs", "wrong ones", "wrong ones, called by their names"])
def test_an_answer_may_rest_on_what_the_chapter_hands_out_solved_or_not(own, sandbox, tmp_path):
    chapter = next(path for path in CHAPTERS if path.stem.startswith("01"))
    wrong = "import torch\n\n\ndef split_heads(x, num_heads):\n    return x.view(len(x), num_heads, x.shape[1], -1)\n"
    written = {"multi-head-attention": "from torch import nn\n" + RESTS}
    if own != "stubs":
        written["split-heads"] = wrong
    if "names" in own:
        written["multi-head-attention"] = written["multi-head-attention"].replace("(split(", "(split_heads(")
    path = tmp_path / "mine.ipynb"
    path.write_text(filled(chapter, written))
    rows = by_exercise(grading.check_file(path, sandbox, seed=12))
    assert rows["multi-head-attention"].status == ("wrong" if "names" in own else "passed"), rows
    assert rows["split-heads"].status == ("not attempted" if own == "stubs" else "wrong")
    assert rows["merge-heads"].status == rows["scaled-dot-product"].status == "not attempted"


def test_what_is_handed_out_for_one_exercise_is_no_answer_to_another(sandbox, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from attn_course.exercises import get\n"
        'split_heads = get("split-heads").use(None)\nmerge_heads = get("merge-heads").use(None)\n'
        'def causal_mask(n):\n    return get("split-heads").use(None)\n'
        'get("split-heads").check(split_heads)\n'
    )
    rows = by_exercise(grading.check_file(path, sandbox, seed=13))
    assert not any(row.points for row in rows.values())


def test_who_imports_the_course_is_told_to_write_an_own_function(sandbox, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from attn_course import causal_mask" + CHECK)
    row = by_exercise(grading.check_file(path, sandbox, seed=14))["causal-mask"]
    assert row.status == "error" and "use your own" in row.message and "/" not in row.message


def test_more_seconds_are_more_for_each_call():
    assert [inmate._for_a_call(seconds) for seconds in (6, 20, 60, 150)] == [pytest.approx(2.4), 8, 8, 20]


def test_the_last_definition_counts_and_later_methods_too(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(
        "def f(): return 1\nx = 2\n@dec\nclass causal_mask: pass\ncausal_mask.g = f; y = 3\n" + CHECK
    )
    statements = grading.read(path).answer(get("causal-mask").task)
    assert statements == ["def f(): return 1", "@dec\nclass causal_mask: pass", "causal_mask.g = f"]


def answer_with(expression: str, *before: str) -> str:
    """A right answer that needs what stands before it: ``expression`` must be 0."""
    return "\n".join([*before, RIGHT.replace("tril()", f"tril({expression})")])


HONEST = {
    "time": "%%time\n" + RIGHT,
    "capture": "\n%%capture out\n" + RIGHT,
    "windows": "# In[3]:\n" + RIGHT.replace("\n", "\r\n"),
    "byte order mark": "\ufeff" + RIGHT,
    "odd line ends": RIGHT.replace("torch\n", "torch  # \u2028 a line of its own, for some\n\f\n"),
    "magics": "%load_ext tensorboard\n"
    + RIGHT
    + "x = !ls\ncausal_mask?\nfor n in (3, 4):\n    %timeit causal_mask(n)\n",
    "question marks in Python": "%matplotlib inline\n"
    + RIGHT.replace("(n):\n", '(n):\n    """Which keys?\n\n    n: how many?\n    """\n    # tril or triu?\n'),
    "a remainder on a line of its own": answer_with("k", "%matplotlib inline", "k = (400", "  % 400)"),
    "a timed line": answer_with("k", "%time k = 0"),
    "indented": "    " + RIGHT.replace("\n", "\n    "),
    "inside an if": "if True:\n    " + RIGHT.replace("\n", "\n    "),
    "as a script": "if __name__ == '__main__':\n    " + RIGHT.replace("\n", "\n    "),
    "in a try": "try:\n    import torch\nexcept ImportError:\n    pass\n"
    + RIGHT.removeprefix("import torch"),
    "a list that grows": answer_with(
        "seen[2]", "seen = []", "seen.append(0)", "for _ in range(2):", "    seen.extend([0])"
    ),
    "a function that fills": answer_with(
        "k + box['j']",
        "k = None",
        "box = {}",
        "def fill():",
        "    global k",
        "    k, box['j'] = 0, 0",
        "fill()",
    ),
    "a decorator that keeps": answer_with(
        "kept['f']()",
        "kept = {}",
        "def keep(f):",
        "    kept[f.__name__] = f",
        "@(",
        "    keep",
        ")",
        "def f(): return 0",
    ),
    "an attribute set by name": answer_with("At.k", "class At: pass", "setattr(At, 'k', 0)"),
    "a tensor filled in place": answer_with(
        "int(big[0])",
        "import torch",
        "big = torch.ones(3)",
        "torch.nn.init.zeros_(big)",
        "big.mul_(2).neg_()",
    ),
    "beside a training loop": "import torch\nimport torch.nn.functional as F\nfrom torch import nn\nsize = 3\n"
    "def work(size):\n    torch.manual_seed(0)\n    return sum(iter(int, 1))\nwork(size)\n"
    "while True:\n    torch.nn.utils.clip_grad_norm_([], 1)\n    F.relu(torch.ones(1)).sum().backward()\n"
    + RIGHT.replace("return", "F, nn, size; return"),
    "a long cell with a magic": f"%matplotlib inline\n{'# a remark' * 3000}\n{RIGHT}",
    "a cell of many magics": "!pip list\n" * 99 + RIGHT,
    "match": answer_with("k", "match 0:", "    case k: pass"),
    "a name of its own that is heavy elsewhere": "mask = sum(iter(int, 1))\nout = [mask for mask in iter(int, 1)]\n"
    "import torch\ndef causal_mask(n):\n    mask = torch.ones(n, n)\n    out = mask.tril()\n    return out.bool()\n",
    "annotations of the future": "from __future__ import annotations\n"
    + RIGHT.replace("(n)", "(n: Nowhere)"),
    "annotations that are read": "def typed(f):\n    kind = f.__annotations__['n']\n    return lambda n: f(kind(n))\n"
    + RIGHT.replace("def", "@typed\ndef").replace("(n):", "(n: int):"),
    "the device of the first cell": "from attn_course import machine\ndevice = machine.introduce()\n"
    + RIGHT.replace("ones(n, n)", "ones(n, n, device=device)"),
}


@pytest.mark.parametrize("style", HONEST)
def test_a_right_answer_in_an_honest_style_is_a_right_answer(style, sandbox, tmp_path):
    source = HONEST[style]
    notebook = tmp_path / "a.ipynb"
    notebook.write_text(json.dumps({"cells": [{"cell_type": "code", "source": source + "\n"}]}))
    script = tmp_path / "a.py"
    script.write_bytes(f"# %%\n{source}\n# %%\n{CHECK}".encode())
    for path in (notebook, script):
        row = by_exercise(grading.check_file(path, sandbox, 5))["causal-mask"]
        assert row.status == "passed", (path.suffix, row.message)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_of_a_chapter_only_what_an_answer_needs_is_run(chapter, tmp_path):
    mine = [exercise for exercise in catalog() if exercise.chapter == int(chapter.stem[:2])]
    path = tmp_path / "done.ipynb"
    path.write_text(filled(chapter, {exercise.id: str(exercise.solution()) for exercise in mine}))
    submission = grading.read(path)
    for exercise in mine:
        assert len(submission.answer(exercise.task)) <= 12, exercise.id
        assert not [text for text in submission.answer(exercise.task) if ".backward()" in text], exercise.id


def test_a_notebook_of_many_statements_is_taken_apart_in_time_that_grows_with_it(tmp_path):
    """A chain of helpers, each above the one that it needs: the number of looks, not the clock, is what counts."""
    path = tmp_path / "chain.py"
    count = 5000
    chain = "".join(f"def f{i}():\n    return f{i + 1}()\n" for i in range(count))
    path.write_text(f"{chain}def f{count}():\n    return 0\n{answer_with('f0()')}{CHECK}")
    submission = grading.read(path)
    looks = []
    with pytest.MonkeyPatch.context() as patch:
        home = sys.modules["attn_course.grading.submission"]
        uses = home._uses
        patch.setattr(home, "_uses", lambda statement: (looks.append(1), uses(statement))[1])
        assert len(submission.answer(get("causal-mask").task)) == count + 3 == len(looks)


def test_what_went_wrong_before_an_answer_was_called_is_told(sandbox, tmp_path):
    path = tmp_path / "a.py"
    path.write_text("from nowhere import something\n" + RIGHT.replace(".tril()", ".tril(something)") + CHECK)
    row = by_exercise(grading.check_file(path, sandbox, 5))["causal-mask"]
    assert row.status == "wrong" and "NameError" in row.message and "No module named 'nowhere'" in row.message
    path.write_text(f"# %%\n%matplotlib inline\n{WRONG}\n# %%\nbroken = (\n# %%\n{CHECK}")
    row = by_exercise(grading.check_file(path, sandbox, 5))["causal-mask"]
    assert "(code cell 1: lines for IPython left out; code cell 2: left out, line 1: " in row.message
    first = "from attn_course.exercises import get\ny = get('causal-mask').reference\n"
    path.write_text(first + RIGHT.replace("(n, n)", "(n, n, dtype=y)") + CHECK)
    row = by_exercise(grading.check_file(path, sandbox, 5))["causal-mask"]
    assert "own functions are not there when an answer is graded" in row.message
    path.write_text(
        "from nowhere import something\nimport torch as something\n"
        + RIGHT.replace("torch.", "something.")
        + CHECK
    )
    assert by_exercise(grading.check_file(path, sandbox, 5))["causal-mask"].status == "passed"


def test_a_compiled_and_a_scripted_answer_are_right_answers(sandbox, tmp_path):
    path = tmp_path / "compiled.py"
    path.write_text(
        "import torch\n@torch.compile\ndef causal_mask(n):\n    return torch.ones(n, n).tril().bool()\n"
        "@torch.jit.script\ndef merge_heads(x):\n    return x.transpose(1, 2).flatten(2)\n" + CHECK
    )
    rows = by_exercise(grading.check_file(path, sandbox, 5))
    assert (rows["causal-mask"].status, rows["merge-heads"].status) == ("passed", "passed"), rows


def test_the_seed_decides_the_cases_and_is_told(sandbox, tmp_path):
    path = tmp_path / "a.py"
    path.write_text(RIGHT + CHECK)
    row = by_exercise(grading.check_file(path, sandbox, 29))["causal-mask"]
    assert (row.seed, row.points, row.file) == (29, 1, str(path)) and len(row.sha256) == 64


# --- What comes out of the sandbox --------------------------------------------------------------------


def reports() -> list[Report]:
    numbers = np.array([[1.5, -0.0], [np.nan, np.inf]], dtype=np.float32)
    tensor = Seen("tensor", "Tensor", "float32", (2, 2), "cpu", numbers, requires_grad=True)
    several = Seen(
        "tuple", "tuple", items=(tensor, Seen("float", "float", value=float("nan")), Seen("none", "None"))
    )
    fault = Fault("ValueError", ("ValueError", "Exception", "object"), "no", "raise ValueError('no')")
    gradients = {"q": tensor, "k": Seen("none", "None")}
    full = Observation("a case", result=several, again=tensor, gradients=gradients,
                       wrote_into=("q",), settings=("grad mode",), printed="hello",
                       memory={"peak_bytes": 7})  # fmt: skip
    empty = Seen("tensor", "Tensor", "int64", (0, 3), "cpu", np.zeros((0, 3), np.int64))
    return [Report("none"), Report("function", True, [Observation("x", fault=fault, stopped="time")]),
            Report("class", False, [full, Observation("empty", result=empty)])]  # fmt: skip


@pytest.mark.parametrize("report", reports(), ids=["nothing", "fault", "full"])
def test_a_report_survives_its_way(report):
    back = wire.unpack(wire.pack(report))
    assert wire.pack(back) == wire.pack(report) and back.candidate == report.candidate
    for ours, theirs in zip(report.observations, back.observations, strict=True):
        assert ours.case == theirs.case and ours.fault == theirs.fault and ours.memory == theirs.memory


def test_what_is_packed_of_a_real_answer_is_judged_as_before():
    task = get("scaled-dot-product").task
    for candidate in (answer(task).solution, answer(task).mistakes[0].candidates[0]):
        report = observe(task, candidate, 3)
        assert judge(task, wire.unpack(wire.pack(report)), 3) == judge(task, report, 3)


def changed(more: bytes = b"", **edit) -> bytes:
    data = wire.pack(reports()[2])
    length = int.from_bytes(data[:8], "big")
    header = json.loads(data[8 : 8 + length])
    target = header["observations"][0]["again"]
    for name, value in edit.items():
        places = [place for place in (target["data"], target) if name in place] or [header]
        for place in places:
            place[name] = value
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "big") + text + data[8 + length :] + more


FORGED = {
    "nothing": b"",
    "no header": b"\xff" * 30,
    "a header that ends too early": (99).to_bytes(8, "big") + b"{}",
    "another object": (2).to_bytes(8, "big") + b"{}",
    "a dtype that holds objects": changed(dtype="object"),
    "a shape below zero": changed(shape=[-1, 4]),
    "a shape beyond the data": changed(shape=[1000, 1000]),
    "a shape beyond every limit": changed(shape=[2**40, 2**40]),
    "a shape with a fraction": changed(shape=[2.0, 2]),
    "a length of its own": changed(bytes=3),
    "an array too large to be an answer": changed(shape=[1000, 2000], bytes=8_000_000, more=bytes(7_999_984)),
    "an unknown kind": changed(kind="code"),
    "a field too many": changed(extra=1),
    "a flag that is a text": changed(requires_grad="yes"),
    "a value beside a tensor": changed(value=3),
    "a text without end": changed(type="x" * 5000),
    "observations that are none": changed(observations=7),
    "bytes left over": wire.pack(reports()[2]) + b"x",
    "bytes missing": wire.pack(reports()[2])[:-1],
    "nested too deeply": (lambda text: len(text).to_bytes(8, "big") + text)(b"[" * 100_000),
    "an infinity": (lambda text: len(text).to_bytes(8, "big") + text)(b"Infinity"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_report_that_no_runner_wrote_is_forged(name):
    with pytest.raises(wire.Forged):
        wire.unpack(FORGED[name])


def test_every_field_of_a_report_travels():
    """A field that is added to a report must be added to its way, too."""
    names = {
        kind.__name__: {field.name for field in dataclasses.fields(kind)}
        for kind in (Report, Observation, Seen, Fault)
    }
    assert names == {
        "Report": {"candidate", "untouched", "observations"},
        "Observation": {"case", "result", "fault", "stopped", "wrote_into", "settings", "again", "gradients",
                        "gradient_fault", "printed", "memory"},
        "Seen": {"kind", "type", "dtype", "shape", "device", "data", "value", "items", "keys", "requires_grad"},
        "Fault": {"type", "bases", "text", "line"},
    }  # fmt: skip


# --- A folder -------------------------------------------------------------------------------------------


def a_class(folder: Path, count: int = 3) -> Path:
    """Students of whom every second one is wrong; one has a folder."""
    folder.mkdir()
    for number in range(count):
        (folder / f"student{number}.py").write_text((WRONG if number % 2 else RIGHT) + CHECK)
    (folder / "zoe").mkdir()
    (folder / "zoe" / "homework.py").write_text(RIGHT + CHECK)
    (folder / ".hidden.py").write_text(RIGHT + CHECK)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.py").write_text(RIGHT + CHECK)
    return folder


def graders(folder: Path, out: Path) -> list[str]:
    """The grader as a process of its own."""
    return [sys.executable, "-m", "attn_course.cli", "grade", str(folder), "--out", str(out)]


def test_a_folder_is_graded_and_what_is_done_is_not_done_again(tmp_path):
    folder, out = a_class(tmp_path / "in"), tmp_path / "grades.csv"
    said: list[str] = []
    rows = grading.grade(folder, out, say=said.append)
    assert len(said) == 4 and grading.load(out) == rows
    causal = {row.student: row.status for row in rows if row.exercise == "causal-mask"}
    assert causal == {"student0": "passed", "student1": "wrong", "student2": "passed", "zoe": "passed"}
    assert len({row.seed for row in rows}) == 1

    before = out.read_bytes()
    assert (
        grading.grade(folder, out, say=said.append) == rows and len(said) == 4 and out.read_bytes() == before
    )
    (folder / "student1.py").write_text(RIGHT + CHECK)
    (folder / "student0.py").unlink()
    again = grading.grade(folder, out, say=said.append)
    assert (
        len(said) == 6 and "student1" in said[-1] and said[-2].startswith(f"1 file of {out} not in {folder}")
    )
    causal = {row.student: row.status for row in again if row.exercise == "causal-mask"}
    assert causal == {"student0": "passed", "student1": "passed", "student2": "passed", "zoe": "passed"}
    assert {row.seed for row in again} == {rows[0].seed}
    without = grading.grade(folder, out, forget=True)
    assert {row.student for row in without} == {"student1", "student2", "zoe"} and grading.load(
        out
    ) == without

    with pytest.raises(ValueError, match=f"seed {rows[0].seed}, not"):
        grading.grade(folder, out, seed=rows[0].seed + 1)
    told = grading.summary(rows)
    diagnosis = next(row.diagnosis for row in rows if row.diagnosis)
    assert f"| causal-mask | 3 of 4 | 1 | 0 | 0 | 0 | {diagnosis} (1) |" in told


def test_another_folder_into_the_same_file_loses_nobody(tmp_path, capsys):
    out = tmp_path / "grades.csv"
    first, second = a_class(tmp_path / "first"), tmp_path / "second"
    (second / "student1").mkdir(parents=True)
    (second / "student1" / "week2.py").write_text(RIGHT + CHECK)
    assert cli.main(["grade", str(first), "--out", str(out), "--exercises", "causal-mask"]) == 0
    capsys.readouterr()
    assert cli.main(["grade", str(second), "--out", str(out)]) == 0
    assert f"4 files of {out} not in {second}: kept (--forget drops them)" in capsys.readouterr().out
    points = {
        row.student: row.points for row in grading.load(out) if row.exercise == "causal-mask" and row.points
    }
    assert points == {"student0": 1, "student1": 1, "student2": 1, "zoe": 1}


def test_a_file_that_changed_is_asked_again_what_it_was_asked_before(tmp_path):
    folder, out = a_class(tmp_path / "in", 1), tmp_path / "grades.csv"
    grading.grade(folder, out, exercises=["causal-mask", "split-heads"])
    (folder / "student0.py").write_text("# another line\n" + RIGHT + CHECK)
    rows = grading.grade(folder, out, exercises=["merge-heads"])
    asked = {row.exercise for row in rows if row.student == "student0"}
    assert asked == {"causal-mask", "split-heads", "merge-heads"}


def test_what_is_no_notebook_has_a_row_and_the_graders_own_files_have_none(tmp_path):
    folder = a_class(tmp_path / "in", 1)
    (folder / "dora").mkdir()
    (folder / "dora" / "essay.docx").write_bytes(b"PK")
    (folder / "zip_zoe.zip").write_bytes(b"PK")
    (folder / "emil").mkdir()
    (folder / "zoe" / "data.csv").write_text("1,2")  # beside a notebook it is no submission
    for _ in range(2):
        rows = grading.grade(folder, folder / "grades.csv")
        (folder / "grades.md").write_text(grading.summary(rows))
        (folder / "grades-students.csv").write_text(grading.points(rows))
    refused = {row.student: row.message for row in rows if row.status == "refused"}
    assert refused == {
        "dora": "no .ipynb or .py file in it",
        "emil": "no .ipynb or .py file in it",
        "zip_zoe": ".zip: expected .ipynb or .py",
    }
    assert {row.student for row in rows} - {*refused} == {"student0", "zoe"}


def test_chosen_exercises_are_out_of_the_whole_class(tmp_path, capsys):
    folder, out = a_class(tmp_path / "in", 2), tmp_path / "grades.csv"
    (folder / "ben.py").write_text('get("sinusoidal-encoding")')  # handed in another chapter
    command = ["grade", str(folder), "--out", str(out), "--exercises"]
    assert cli.main([*command, "causal-mask", "split-heads"]) == 0
    told = (tmp_path / "grades.md").read_text()
    assert (
        "| causal-mask | 2 of 4 | 1 | 0 | 1 | 0 |" in told
        and "| split-heads | 0 of 4 | 0 | 3 | 1 | 0 |" in told
    )
    assert "| student0 | 1 of 2 |" in told and "| ben | 0 of 2 |" in told
    assert "ben.py: refused: none of causal-mask, split-heads in it" in told
    with (tmp_path / "grades-students.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["student", "points", "of", "causal-mask", "split-heads"],
            ["ben", "0", "2", "", ""],
            ["student0", "1", "2", "1", "0"],
            ["student1", "0", "2", "0", "0"],
            ["zoe", "1", "2", "1", "0"],
        ]
    capsys.readouterr()
    assert cli.main([*command, "casual-mask"]) == 2
    assert "no exercise casual-mask; there are scaled-dot-product" in capsys.readouterr().err


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path):
    folder, out = a_class(tmp_path / "in", 12), tmp_path / "grades.csv"
    command = [*graders(folder, out), "--seed", "7"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert run.stdout is not None
    first = run.stdout.readline()
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    kept = grading.load(out)
    assert "1 of 13" in first and 8 <= len(kept) < 13 * 8
    with out.open("ab") as file:  # and the machine went down within a line
        file.write(b"student9,student9.py,1,causal-mask,pas")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = grading.load(out)
    assert rows[: len(kept) - 8] == kept[: len(kept) - 8] and len(rows) == 13 * 8
    assert len({(row.file, row.exercise) for row in rows}) == len(rows)
    whole = grading.grade(folder, tmp_path / "whole.csv", seed=7)
    assert sorted(map(str, whole)) == sorted(map(str, rows))


def test_a_file_of_something_else_is_refused_and_stays(tmp_path, capsys):
    folder, out = a_class(tmp_path / "in"), tmp_path / "grades.csv"
    out.write_text("name,phone\nAda,1\n")
    assert cli.main(["grade", str(folder), "--out", str(out)]) == 1
    assert "no file of grades" in capsys.readouterr().err and out.read_text() == "name,phone\nAda,1\n"
    out.write_text(",".join(COLUMNS) + "\nAda,1\n")
    assert cli.main(["grade", str(folder), "--out", str(out)]) == 1
    assert f"2 columns, expected {len(COLUMNS)}" in capsys.readouterr().err


def test_what_was_stopped_can_be_graded_again_and_a_chapter_that_is_missing_is_graded(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    slow = RIGHT.replace("    return", "    for _ in iter(int, 1): pass\n    return")
    (tmp_path / "in" / "a.py").write_text(slow + CHECK)
    command = ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "g.csv"), "--seconds", "2"]
    assert cli.main([*command, "--chapter", "4"]) == 0
    assert {row.chapter for row in grading.load(tmp_path / "g.csv")} == {4}
    assert cli.main(command) == 0
    rows = by_exercise(grading.load(tmp_path / "g.csv"))
    assert rows["causal-mask"].chapter == 1 and rows["causal-mask"].status in ("wrong", "stopped")
    (tmp_path / "g.csv").write_text((tmp_path / "g.csv").read_text().replace("missing", "stopped"))
    capsys.readouterr()
    assert cli.main(command) == 0 and "1 of 1" not in capsys.readouterr().out
    assert cli.main([*command, "--again", "stopped"]) == 0 and "1 of 1" in capsys.readouterr().out
    assert "stopped" not in {
        row.status
        for name, row in by_exercise(grading.load(tmp_path / "g.csv")).items()
        if name != "causal-mask"
    }
    assert (
        cli.main([*command, "--again", "lost"]) == 2
        and "no status lost; there are passed" in capsys.readouterr().err
    )
    assert cli.main([*command, "--again", "no-progress"]) == 0 and "1 of 1" in capsys.readouterr().out


def test_a_student_with_two_files_counts_once_and_with_the_better_one(tmp_path):
    for student, source in (("ada", RIGHT), ("ben", WRONG)):
        (tmp_path / student).mkdir()
        (tmp_path / student / "a.py").write_text(source + CHECK)
        (tmp_path / student / "b.py").write_text(WRONG + CHECK)
    told = grading.summary(grading.grade(tmp_path, tmp_path / "g.csv"))
    assert "| causal-mask | 1 of 2 | 1 | 0 | 0 | 0 |" in told
    assert "| ada | 1 of 8 |" in told and "| ben | 0 of 8 |" in told


def test_a_file_that_nobody_foresaw_does_not_hold_up_the_others(monkeypatch, tmp_path):
    home = sys.modules["attn_course.grading.submission"]
    parse = home._parse

    def broken(submission, number, source):
        if "broken" in source:
            raise ArithmeticError("nobody foresaw")
        parse(submission, number, source)

    monkeypatch.setattr(home, "_parse", broken)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.py").write_text("broken = 1" + CHECK)
    (tmp_path / "in" / "b.py").write_text(RIGHT + CHECK)
    rows = grading.grade(tmp_path / "in", tmp_path / "g.csv")
    assert (rows[0].status, rows[0].message) == ("refused", "cannot be read: ArithmeticError: nobody foresaw")
    assert by_exercise(rows)["causal-mask"].status == "passed"


def test_a_grader_that_is_asked_to_end_leaves_nothing_behind(tmp_path):
    folder = a_class(tmp_path / "in", 12)
    (tmp_path / "tmp").mkdir()
    command = graders(folder, tmp_path / "g.csv")
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           env={**os.environ, "TMPDIR": str(tmp_path / "tmp")})  # fmt: skip
    assert run.stdout is not None and "1 of 13" in run.stdout.readline()
    run.terminate()
    _, told = run.communicate(timeout=60)
    assert run.returncode == 130 and "No finished notebook is lost" in told
    assert list((tmp_path / "tmp").iterdir()) == [] and {p.name for p in tmp_path.iterdir()} == {
        "in",
        "tmp",
        "g.csv",
    }


def test_two_graders_do_not_write_one_file(tmp_path):
    from attn_course.grading.grade import _locked

    folder, out = a_class(tmp_path / "in"), tmp_path / "grades.csv"
    with _locked(out), pytest.raises(BlockingIOError, match="another run"):
        grading.grade(folder, out)
    assert not out.exists()


def test_a_folder_without_notebooks_and_a_chapter_that_there_is_not_are_told(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert cli.main(["grade", str(tmp_path / "empty"), "--out", str(tmp_path / "g.csv")]) == 1
    assert "no .ipynb or .py" in capsys.readouterr().err
    assert cli.main(["grade", str(tmp_path / "gone"), "--out", str(tmp_path / "g.csv")]) == 1
    assert "is no folder" in capsys.readouterr().err
    assert cli.main(["check", "x.py", "--chapter", "9"]) == 2
    assert "no chapter 9; there are 1 to 7" in capsys.readouterr().err


def test_values_that_begin_like_formulas_come_back_as_they_were(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("=1+1.py", "@home.py", "-x.py", "'quoted.py"):
        (tmp_path / "in" / name).write_text("x = 1\n")
    rows = grading.grade(tmp_path / "in", tmp_path / "g.csv")
    assert grading.load(tmp_path / "g.csv") == rows
    with (tmp_path / "g.csv").open() as file:
        assert all(cell[:1] not in "=+-@" for line in csv.reader(file) for cell in line if cell)


def test_a_name_colours_no_terminal_and_means_nothing_in_markdown(tmp_path):
    (tmp_path / "in").mkdir()
    odd = "\x1b[31mred\n# A title | [link](x) <b>.py"
    (tmp_path / "in" / odd).write_text("x = 1\n")
    (tmp_path / "in" / os.fsdecode(b"\xff.py")).write_text("x = 1\n")
    said: list[str] = []
    rows = grading.grade(tmp_path / "in", tmp_path / "g.csv", say=said.append)
    assert grading.load(tmp_path / "g.csv") == rows and len(said) == 2
    assert grading.grade(tmp_path / "in", tmp_path / "g.csv", say=said.append) == rows and len(said) == 2
    told = grading.summary(rows)
    assert "\n- \\\\x1b\\[31mred\\\\n\\# A title \\| \\[link\\](x) \\<b\\>.py: refused" in told
    assert all(text.isprintable() for text in [*said, *told.splitlines()])


# --- The command ----------------------------------------------------------------------------------------


def test_check_prints_a_table_and_json(tmp_path, capsys):
    path, told = tmp_path / "a.py", tmp_path / "a.json"
    path.write_text(WRONG + CHECK)
    assert cli.main(["check", str(path), "--json", str(told), "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    rows = json.loads(told.read_text())
    row = next(row for row in rows if row["exercise"] == "causal-mask")
    assert set(row) == set(COLUMNS) and row["status"] == "wrong" and row["seed"] == 3
    assert re.search(rf"✗ causal-mask +wrong \[{row['diagnosis']}\]", shown) and "7 missing" in shown


def test_check_of_a_refused_file_says_so_and_goes_on(tmp_path, capsys):
    (tmp_path / "bad.ipynb").write_text("{")
    (tmp_path / "good.py").write_text(RIGHT + CHECK)
    assert (
        cli.main(
            [
                "check",
                str(tmp_path / "bad.ipynb"),
                str(tmp_path / "gone.py"),
                str(tmp_path / "good.py"),
                "--json",
                "-",
            ]
        )
        == 1
    )
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows[:2]] == ["refused", "refused"] and "passed" in {
        row["status"] for row in rows
    }


def test_check_writes_a_name_so_that_it_colours_nothing(tmp_path, capsys):
    for name in ("\x1b[31mred.py", os.fsdecode(b"\xff.py")):
        (tmp_path / name).write_text(RIGHT + CHECK)
        assert cli.main(["check", str(tmp_path / name)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\\x1b[31mred.py" in shown and "\\udcff.py" in shown


def test_where_submissions_cannot_be_locked_in_grading_refuses(monkeypatch, tmp_path, capsys):
    (tmp_path / "a.py").write_text(RIGHT + CHECK)
    monkeypatch.setattr(grading.Sandbox, "_probe", lambda self: {"files": "this kernel offers no Landlock"})
    assert cli.main(["check", str(tmp_path / "a.py")]) == 1
    told = capsys.readouterr().err
    assert (
        "files: this kernel offers no Landlock" in told and "--weak-sandbox" in told and "container" in told
    )
    assert cli.main(["check", str(tmp_path / "a.py"), "--weak-sandbox"]) == 0
    assert "✓ causal-mask" in capsys.readouterr().out


def test_the_lock_is_tried_not_believed(monkeypatch, tmp_path):
    """Without the lock the probe finds every door open."""
    from attn_course.grading import sandbox as home

    broken = tmp_path / "confine.py"
    source = (home.HERE / "confine.py").read_text()
    broken.write_text(
        source.replace("    missing: dict[str, str] = {}\n    allowed", "    return {}\n    allowed")
    )
    assert broken.read_text() != source
    fill = grading.Sandbox._fill
    monkeypatch.setattr(
        grading.Sandbox,
        "_fill",
        lambda self: (fill(self), (self.folder / "code" / "confine.py").write_text(broken.read_text())),
    )
    with grading.Sandbox(weak=True) as opened:
        assert set(opened.missing) == {"files", "network", "processes", "memory"}
    with pytest.raises(grading.SandboxError, match=r"could be (read|written)"):
        grading.Sandbox()


def test_the_sandbox_holds_neither_judge_nor_answers(sandbox):
    names = {path.name for path in sandbox.folder.rglob("*.py")}
    assert "runner.py" in names and "chapter1.py" in names
    assert not {"judge.py", "core.py", "panel.py"} & names and not [
        name for name in names if "answers" in name
    ]
    text = "".join(path.read_text() for path in sandbox.folder.rglob("*.py"))
    for exercise in catalog():
        solution = [
            line.strip()
            for line in str(exercise.solution()).splitlines()
            if line.strip().startswith("return ")
        ]
        assert solution, exercise.id
        for line in solution:
            assert len(line) < 25 or line not in text, f"{exercise.id}: {line}"


def test_the_sandbox_leaves_no_folder_and_no_process_behind():
    with grading.Sandbox() as opened:
        folder, pid = opened.folder, opened.process.pid
        assert folder.exists()
    time.sleep(0.1)
    assert not folder.exists() and not Path(f"/proc/{pid}").exists()


def test_what_one_student_wrote_is_not_in_the_memory_of_the_process_that_runs_the_next(sandbox, tmp_path):
    marker = secrets.token_hex(16)
    (tmp_path / "first.py").write_text(f"note = '{marker}'\n{RIGHT}    note\n{CHECK}")
    (tmp_path / "next.py").write_text(RIGHT + CHECK)

    def remembered() -> int:
        """How often the marker stands in the memory of the sandbox's processes."""
        found = 0
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if int((process / "stat").read_text().rsplit(")", 1)[1].split()[3]) != sandbox.process.pid:
                    continue
                for line in (process / "maps").read_text().splitlines():
                    place, rights = line.split()[:2]
                    low, high = (int(end, 16) for end in place.split("-"))
                    if "rw" in rights and high - low < 1 << 30:
                        with (process / "mem").open("rb", buffering=0) as memory:
                            memory.seek(low)
                            found += memory.read(high - low).count(marker.encode())
            except OSError:  # it ended meanwhile
                continue
        return found

    grading.check_file(tmp_path / "first.py", sandbox, 3)
    assert remembered() > 0  # the search finds what is there
    grading.check_file(tmp_path / "next.py", sandbox, 3)
    assert remembered() == 0


def test_the_doctor_says_what_the_sandbox_can_do():
    assert "sandbox works" in grading.protections()["grading"]
