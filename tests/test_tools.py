"""The tools behind `make`: each is tried on a small case, and the workflows are held to their promises."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tools import browser, constraints, env, lint, notebooks, repository, steps

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


# --- nbval and its guard --------------------------------------------------------------------------


def nbval(folder, *sources, guard=True, outputs=None):
    """The exit status and the text of nbval over a notebook of these code cells."""
    cells = [new_code_cell(source, execution_count=number) for number, source in enumerate(sources, start=1)]
    for cell, stored in zip(cells, outputs or [], strict=False):
        cell.outputs = stored
    path = folder / "x.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    command = notebooks.nbval_command([path], lax=False)
    if not guard:
        at = command.index("tools.nbval_guard")
        del command[at - 1 : at + 1]
    command += ["--rootdir", str(folder), "-c", os.devnull]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=notebooks.environment())
    return answer.returncode, answer.stdout


HIDES = "get_ipython().showtraceback = lambda *args, **kwargs: None"


def test_an_error_that_the_notebook_hides_passes_nbval_alone_and_fails_with_the_guard(tmp_path):
    cells = (HIDES, "1 / 0", "never = 1")
    assert nbval(tmp_path, *cells, guard=False)[0] == 0
    status, text = nbval(tmp_path, *cells)
    assert status == 1 and "ZeroDivisionError" in text and "1 failed, 2 passed" in text
    assert "tools.nbval_guard" in notebooks.nbval_command([tmp_path], lax=True)


def test_what_two_runs_never_share_is_not_compared_and_everything_else_is(tmp_path):
    cells = (
        "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)):\n    pass",
        "object()",
        "print(0.5)",
    )
    stored = [
        [],
        [new_output("execute_result", {"text/plain": "<object at 0x…>"}, execution_count=2)],
        [new_output("stream", name="stdout", text="0.5\n")],
    ]
    status, text = nbval(tmp_path, *cells, outputs=stored)
    assert status == 0, text
    stored[2][0].text = "0.6\n"
    status, text = nbval(tmp_path, *cells, outputs=stored)
    assert status == 1 and "1 failed, 2 passed" in text


# --- the repository's address ---------------------------------------------------------------------

OURS = "https://github.com/ada/attention"


@pytest.mark.parametrize(
    ("address", "owner", "name", "pages"),
    [
        (OURS, "ada", "attention", "https://ada.github.io/attention"),
        (OURS + "/", "ada", "attention", "https://ada.github.io/attention"),
        (OURS + ".git", "ada", "attention", "https://ada.github.io/attention"),
        ("https://github.com/Ada/ada.github.io", "Ada", "ada.github.io", "https://ada.github.io"),
    ],
)
def test_an_address_is_read(address, owner, name, pages):
    found = repository.parse(address)
    assert (found.owner, found.name, found.pages) == (owner, name, pages)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "attention",
        "ada/attention",
        "http://github.com/ada/attention",
        "https://gitlab.com/ada/attention",
        OURS + "/tree/main",
        OURS + "?a=1",
        "https://github.com/-ada/attention",
        "https://github.com/ada/att ention",
        "https://github.com/ada",
        "git@github.com:ada/attention.git",
        "https://user:word@github.com/ada/attention",
    ],
)
def test_nonsense_is_refused(address):
    with pytest.raises(ValueError, match="OWNER/NAME"):
        repository.parse(address)


@pytest.fixture
def small(tmp_path):
    """A repository with the address in every spelling."""
    old = "attn-course/attn-course"
    files = {
        "_config.yml": f"title: x\nrepository:\n  url: https://github.com/{old}\n  branch: main\n",
        "README.md": f"[Colab](https://colab.research.google.com/github/{old}/blob/main/n.ipynb)\n"
        f"https://github.com/{old}/issues, https://attn-course.github.io/attn-course/a.html\n"
        "https://github.com/pytorch/pytorch stays\n",
        "pyproject.toml": f'[project.urls]\nRepository = "https://github.com/{old}"\n',
        "notebooks/01_x.py": f'# %% tags=["setup"]\nrun("git+https://github.com/{old}.git")\n',
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def texts(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in repository.files(folder)}


def test_a_new_address_reaches_every_spelling_and_nothing_else(small):
    mine = repository.parse(OURS)
    assert len(repository.change(mine, small)) == 4
    after = texts(small)
    assert "attn-course" not in "".join(after.values())
    assert "https://colab.research.google.com/github/ada/attention/blob/main/n.ipynb" in after["README.md"]
    assert "https://ada.github.io/attention/a.html" in after["README.md"]
    assert "https://github.com/pytorch/pytorch stays" in after["README.md"]
    assert 'run("git+https://github.com/ada/attention.git")' in after["notebooks/01_x.py"]
    assert repository.current(small) == mine
    assert repository.change(mine, small) == []
    assert repository.strays(after.items(), mine) == []


def test_going_there_and_back_gives_the_same_files(small):
    before = texts(small)
    repository.change(repository.parse(OURS), small)
    repository.change(repository.parse("https://github.com/attn-course/attn-course"), small)
    assert texts(small) == before


def test_a_failure_in_the_middle_leaves_the_files_as_they_were(small, monkeypatch):
    before = texts(small)
    write = Path.write_text
    calls = []

    def failing(self, text, **options):
        calls.append(self)
        if len(calls) == 3:
            raise OSError("disk full")
        return write(self, text, **options)

    monkeypatch.setattr(Path, "write_text", failing)
    with pytest.raises(OSError, match="disk full"):
        repository.change(repository.parse(OURS), small)
    assert len(calls) > 3 and texts(small) == before


@pytest.mark.parametrize(
    "text",
    [
        "https://github.com/someone/attention/issues",
        "https://colab.research.google.com/github/else/where/blob/main/x.ipynb",
        "https://ada.github.io/old-name",
        "git@github.com:ada/old-name.git",
    ],
)
def test_a_stray_address_is_found(text):
    mine = repository.parse(OURS)
    assert repository.strays([("a.md", text)], mine) == [f"a.md: {repository.MENTION.search(text)[0]}"]


def test_nonsense_on_the_command_line_changes_nothing_and_says_what_is_wanted(capsys):
    assert repository.main(["htp:/x"]) == 1
    assert "https://github.com/OWNER/NAME" in capsys.readouterr().err


# --- the browser ----------------------------------------------------------------------------------


def test_a_program_counts_as_a_browser_only_if_it_starts(tmp_path):
    for name, body in (("good", "echo Chromium 150.0"), ("stub", "echo install the snap"), ("bad", "exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    assert [browser.starts(str(tmp_path / name)) for name in ("good", "stub", "bad", "none")] == [
        True, False, False, False]  # fmt: skip


def test_the_browser_that_the_environment_names_comes_first(tmp_path, monkeypatch):
    path = tmp_path / "mine"
    path.write_text("#!/bin/sh\necho Chromium 1\n")
    path.chmod(0o755)
    monkeypatch.setenv("CHROMIUM", str(path))
    assert browser.find() == str(path)


def test_without_a_browser_each_way_is_tried_until_one_works(monkeypatch):
    tried = []
    monkeypatch.setattr(browser, "find", lambda: "/usr/bin/it" if "works" in tried else None)
    monkeypatch.setattr(browser, "recipes", lambda: [[["fails"], ["never"]], [["works"]], [["later"]]])

    def run(command, **_):
        tried.append(command[0])
        return subprocess.CompletedProcess(command, int(command[0] == "fails"))

    monkeypatch.setattr(browser.subprocess, "run", run)
    assert browser.ensure() == "/usr/bin/it" and tried == ["fails", "works"]


def test_where_no_browser_can_be_had_it_says_so_and_fails(monkeypatch):
    monkeypatch.setattr(browser, "find", lambda: None)
    monkeypatch.setattr(browser, "recipes", lambda: [])
    with pytest.raises(SystemExit, match="the browser checks need Chromium"):
        browser.ensure()


# --- the environment ------------------------------------------------------------------------------

FREEZE = """\
Jinja2==3.1.6
torch==2.13.0+cpu
nvidia-cublas-cu12==12.8.4.1
triton==3.5.0
pip==26.3
-e git+https://example.org/x.git@abc#egg=attn_course
attn-course @ file:///somewhere/here
# Editable install with no version control (attn-course==0.1.0)
attrs==26.1.0
"""


def test_constraints_keep_versions_and_drop_what_belongs_to_one_machine():
    text = constraints.constraints(FREEZE)
    assert text == constraints.HEAD + "attrs==26.1.0\nJinja2==3.1.6\ntorch==2.13.0\n"


def test_torch_is_raised_by_hand_only():
    assert constraints.torch_pin("a==1\ntorch==2.12.1\n") == "torch==2.12.1"


def test_an_environment_is_pinned_from_its_build_backend_on():
    first, second, _ = env.commands(Path("py"), "constraints.txt")
    assert first[first.index("-c") + 1] == second[second.index("-c") + 1] == "constraints.txt"
    assert "hatchling" in first and "--no-build-isolation" in second


def test_the_newest_versions_are_taken_where_no_constraints_are_named():
    assert all("-c" not in command for command in env.commands(Path("py"), ""))


def test_an_environment_of_another_python_is_made_anew(tmp_path):
    assert env.runs(Path(sys.executable))
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 3 9\n")
    fake.chmod(0o755)
    assert not env.runs(fake) and not env.runs(tmp_path / "missing")


# --- steps ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells")
def test_memory_of_a_step_counts_what_its_children_hold():
    child = "import time; held = bytearray(b'x' * 200_000_000); time.sleep(1.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    status, seconds, peak = steps.run([sys.executable, "-c", parent])
    assert status == 0 and seconds > 1 and 200e6 < peak < 600e6


def test_a_process_that_ends_while_it_is_looked_at_is_counted_without_its_children(monkeypatch):
    def ended(path, pattern):
        raise FileNotFoundError(path)

    monkeypatch.setattr(steps.Path, "glob", ended)
    assert steps.tree(os.getpid()) == [os.getpid()] and steps.memory(os.getpid()) > 0


def test_steps_go_on_after_a_failure_and_say_which_failed(tmp_path, monkeypatch, capfd):
    (tmp_path / "Makefile").write_text("a:\n\t@exit 3\nb:\n\t@echo ran b\n")
    monkeypatch.chdir(tmp_path)
    assert steps.main("make all", ["a", "b"]) == 1
    out = capfd.readouterr().out
    last = out.strip().splitlines()[-1]
    assert "ran b" in out and re.search(r"make all: FAILED in .*passed: b 0 s; failed: a 0 s", last)
    assert steps.main("make all", ["b"]) == 0
    capfd.readouterr()
    assert steps.main("make all", ["a", "b"], stop=True) == 1 and "ran b" not in capfd.readouterr().out


# --- make -----------------------------------------------------------------------------------------


def make(*arguments, cwd=ROOT, **variables):
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment = {**outer, **variables}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


COMMANDS = ["env", "book", "serve", "test", "notebooks", "test-gpu", "lab", "experiments", "bench",
            "scenarios", "student", "colab", "set-repository", "constraints"]  # fmt: skip


def test_make_help_lists_every_command_with_a_line():
    lines = make("help").stdout.splitlines()
    assert make().stdout.splitlines() == lines
    listed = {line.split()[1]: line.split(maxsplit=2)[2] for line in lines}
    assert set(listed) == {"help", *COMMANDS}
    assert all(len(text) > 10 for text in listed.values())


def test_a_missing_python_is_said_in_words(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "package-lock.json"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    answer = make("env", "PYTHON=python3.99", cwd=tmp_path)
    assert answer.returncode and "python3.99 is missing. Install Python 3.11" in answer.stderr


def test_set_repository_without_an_address_says_how():
    answer = make("set-repository", "VENV=", f"PYTHON={sys.executable}")
    assert answer.returncode and "make set-repository URL=https://github.com/OWNER/NAME" in answer.stderr


def test_the_gpu_job_fails_in_words_where_there_is_no_gpu():
    answer = make("test-gpu", "VENV=", f"PYTHON={sys.executable}", CUDA_VISIBLE_DEVICES="")
    assert answer.returncode and "this machine has no GPU that torch can use" in answer.stderr


def test_ci_runs_test_then_book_without_input():
    text = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK) and text.startswith("#!/usr/bin/env bash")
    assert "for command in test book" in text and "</dev/null" in text
    assert subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")]).returncode == 0


# --- the workflows --------------------------------------------------------------------------------


def load(path):
    data = yaml.safe_load(path.read_text())
    data["on"] = data.pop(True, data.get("on"))  # YAML 1.1 reads `on` as true
    return data


def faults(workflow):
    """What breaks the promises that every workflow keeps."""
    found = []
    if workflow.get("permissions") != {"contents": "read"}:
        found.append("permissions are not contents: read")
    if "pull_request_target" in workflow["on"]:
        found.append("pull_request_target")
    for name, job in workflow["jobs"].items():
        steps = job.get("steps", [])
        writes = {key for key, value in job.get("permissions", {}).items() if value == "write"}
        checks_out = any("actions/checkout" in step.get("uses", "") for step in steps)
        if writes and (
            checks_out or any("run" in step for step in steps) or not writes <= {"pages", "id-token"}
        ):
            found.append(f"{name} runs code with {', '.join(sorted(writes))}")
        if checks_out and any(
            step.get("with", {}).get("persist-credentials") is not False
            for step in steps
            if "actions/checkout" in step.get("uses", "")
        ):
            found.append(f"{name} leaves its token on the disk")
        if "secrets." in str(job) or job.get("secrets"):
            found.append(f"{name} sees secrets")
        if steps and "timeout-minutes" not in job:
            found.append(f"{name} has no time limit")
        uses = [step["uses"] for step in steps if "uses" in step] + ([job["uses"]] if "uses" in job else [])
        loose = [
            one
            for one in uses
            if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}|\./\.github/workflows/\w+\.yml", one)
        ]
        found += [f"{one} is not pinned by commit" for one in loose]
        found += [f"{name} puts an expression into a script" for s in steps if "${{" in s.get("run", "")]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_keeps_its_promises(path):
    assert faults(load(path)) == []


@pytest.mark.parametrize(
    ("fault", "spoil"),
    [
        ("permissions", lambda w: w.update(permissions={"contents": "write"})),
        ("pull_request_target", lambda w: w["on"].update(pull_request_target=None)),
        ("not pinned", lambda w: w["jobs"]["test"]["steps"].append({"uses": "actions/cache@v5"})),
        ("secrets", lambda w: w["jobs"]["test"].update(env={"T": "${{ secrets.TOKEN }}"})),
        ("runs code", lambda w: w["jobs"]["test"].update(permissions={"pages": "write"})),
        ("time limit", lambda w: w["jobs"]["test"].pop("timeout-minutes")),
        ("token", lambda w: w["jobs"]["test"]["steps"][0].pop("with")),
        ("script", lambda w: w["jobs"]["test"]["steps"].append({"run": "echo ${{ github.head_ref }}"})),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_workflow_that_breaks_a_promise_is_found(fault, spoil):
    workflow = load(ROOT / ".github" / "workflows" / "test.yml")
    spoil(workflow)
    assert any(fault in line for line in faults(workflow))


def test_every_pinned_action_says_its_version():
    for path in WORKFLOWS:
        for line in path.read_text().splitlines():
            if re.search(r"uses:.*@", line):
                assert re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), f"{path.name}: {line.strip()}"


def test_one_action_has_one_version_in_all_workflows():
    pins = {}
    for path in WORKFLOWS:
        for name, commit in re.findall(r"uses: ([\w/-]+)@([0-9a-f]{40} # v[\d.]+)", path.read_text()):
            pins.setdefault(name, set()).add(commit)
    assert {name: found for name, found in pins.items() if len(found) > 1} == {}


def test_workflows_run_what_a_contributor_runs():
    for path in WORKFLOWS:
        for job in load(path)["jobs"].values():
            for step in job.get("steps", []):
                targets = re.findall(r"^make ([\w-]+)", step.get("run", ""), re.MULTILINE)
                assert set(targets) <= {*COMMANDS, "status"}


def test_the_book_is_published_only_after_the_gpu_job_and_by_a_job_of_its_own():
    jobs = load(ROOT / ".github" / "workflows" / "book.yml")["jobs"]
    assert jobs["gpu"]["uses"] == "./.github/workflows/gpu.yml"
    assert jobs["build"]["needs"] == "gpu" and jobs["publish"]["needs"] == "build"
    assert "permissions" not in jobs["build"]
    assert [step["uses"].split("@")[0] for step in jobs["publish"]["steps"]] == ["actions/deploy-pages"]


def test_the_gpu_job_takes_its_runner_from_one_variable_and_runs_in_colabs_image_too():
    workflow = load(ROOT / ".github" / "workflows" / "gpu.yml")
    assert "pull_request" not in workflow["on"] and workflow["on"]["schedule"]
    jobs = workflow["jobs"]
    on_gpu = {name: job for name, job in jobs.items() if name != "runner"}
    assert {job["runs-on"] for job in on_gpu.values()} == {"${{ needs.runner.outputs.label }}"}
    assert len(re.findall(r"vars\.\w+", (ROOT / ".github" / "workflows" / "gpu.yml").read_text())) == 1
    assert jobs["colab"]["container"]["image"] == "us-docker.pkg.dev/colab-images/public/runtime"
    assert "--gpus all" in jobs["colab"]["container"]["options"]
    assert all(
        any("make test-gpu" in step.get("run", "") for step in job["steps"]) for job in on_gpu.values()
    )


def test_actionlint_accepts_the_workflows_and_sees_a_fault(tmp_path):
    command = lint.checks()["actionlint (workflows)"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    bad = (ROOT / ".github" / "workflows" / "test.yml").read_text().replace("github.ref", "github.rfe")
    (tmp_path / "bad.yml").write_text(bad)
    command = [*command[:-1], str(tmp_path / "bad.yml")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 1 and "rfe" in answer.stdout


@pytest.mark.parametrize(
    ("label", "expected"), [("gpu-t4", "gpu-t4"), ("family=g4dn/x=y", "runs-on=7/family=g4dn/x=y")]
)
def test_the_runners_label_is_made_from_the_variable(tmp_path, label, expected):
    (step,) = load(ROOT / ".github" / "workflows" / "gpu.yml")["jobs"]["runner"]["steps"]
    output = tmp_path / "out"
    environment = {**os.environ, "WANTED": label, "RUN": "7", "GITHUB_OUTPUT": str(output)}
    subprocess.run(["bash", "-e", "-c", step["run"]], env=environment, check=True)
    assert output.read_text() == f"label={expected}\n"
    answer = subprocess.run(
        ["bash", "-e", "-c", step["run"]], env={**environment, "WANTED": ""}, capture_output=True
    )
    assert answer.returncode == 1 and b"GPU_RUNNER" in answer.stdout
