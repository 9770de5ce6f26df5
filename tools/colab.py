"""An environment like Colab's: does all that the notebooks use work there?

    python tools/colab.py check                      everything but the chapters' own runs, and the quickest chapter
    python tools/colab.py record [--force] [NAME …]  runs the chapters that changed since they last passed there

The environment has the versions that Colab publishes (``colab-constraints.txt``), but for Python and torch, which are
those of the environment that runs this. The package comes into it as into Colab: the notebooks' own set-up cell
installs a wheel of it, built here, without its dependencies. ``record`` keeps what passed, and when, in
``results/colab/run.json``; each chapter's page shows it.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import hashlib
import inspect
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from attn_course import machine
from tools import notebooks

ROOT = notebooks.ROOT
PINS = ROOT / "tools" / "colab-constraints.txt"
RECORD = ROOT / "results" / "colab" / "run.json"
FIGURES = ROOT / "tests" / "figures"
QUICKEST = "04"
CELL_SECONDS = 300
WIDGET = "application/vnd.jupyter.widget-view+json"
FIGURE = "application/vnd.attn-course.figure+json"
# What a reader wants to know of it, in this order.
SHOWN = ("torch", "numpy", "matplotlib", "pandas", "ipython", "ipykernel", "ipywidgets", "anywidget")


# --- what Colab has -------------------------------------------------------------------------------


def published(path: Path = PINS) -> dict[str, str]:
    """``source``, ``date`` and ``commit`` of Colab's list, and its ``python``.

    Raises:
        ValueError: the head of the file does not say one of them.
    """
    text = path.read_text(encoding="utf-8")
    patterns = {
        "source": r"# Source: (https://\S+?),? ",
        "date": r"pip-freeze\S* of (\d{1,2} \w+ \d{4})",
        "commit": r"\(commit ([0-9a-f]{12,40})\)",
        "python": r"^# python==(\S+)",
    }
    found = {name: re.search(pattern, text, re.MULTILINE) for name, pattern in patterns.items()}
    missing = [name for name, match in found.items() if match is None]
    if missing:
        raise ValueError(f"the head of {path.name} does not say its {', '.join(missing)}")
    return {name: match[1] for name, match in found.items() if match}


def installed(python: Path) -> dict[str, str]:
    """Distribution -> version, of all that lies in an environment."""
    (packages,) = python.parent.parent.glob("lib/python*/site-packages")
    found = metadata.distributions(path=[str(packages)])
    return {one.metadata["Name"].lower().replace("_", "-"): one.version for one in found}


# --- the environment ------------------------------------------------------------------------------


def environment(folder: Path = ROOT / "_build" / "colab", pins: Path = PINS) -> Path:
    """The Python of an environment with Colab's versions, made anew where they changed.

    The package itself is not in it: the set-up cell brings it.
    """
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        python, stamp = folder / "bin" / "python", folder / "stamp"
        ours = f"{sys.executable} {platform.python_version()} torch {metadata.version('torch')}"
        now = f"{ours} {_hash(pins.read_bytes())}"
        if not stamp.exists() or stamp.read_text() != now:
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
            _pip("--python", str(python), "install", "--no-deps", "-r", str(pins))
            _lend(python, set(notebooks.pins(pins)))
            stamp.write_text(now)
        if "attn-course" in installed(python):
            subprocess.run(
                [python, "-m", "pip", "uninstall", "-q", "-y", "attn-course"], check=True, capture_output=True
            )
    return python


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "-q"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"colab: pip {' '.join(arguments[:4])} … failed:\n{done.stderr.strip()[-2000:]}")


def _lend(python: Path, pinned: set[str]) -> None:
    """Link our torch, and what it needs that is not pinned, into the environment: 700 MB are not installed twice."""
    (there,) = python.parent.parent.glob("lib/python*/site-packages")
    wanted, seen = ["torch"], set[str]()
    for name in wanted:
        key = re.split(r"[^\w.-]", name.lower().replace("_", "-"))[0]
        if key in seen or key in pinned:
            continue
        seen.add(key)
        try:
            distribution = metadata.distribution(key)
        except metadata.PackageNotFoundError:  # asked for on another system only
            continue
        needs = distribution.requires or []
        wanted += [need for need in needs if "extra ==" not in need]
        files = {file.parts[0] for file in distribution.files or [] if ".." not in file.parts}
        for part in files:
            target = Path(str(distribution.locate_file(part)))
            if not (there / part).exists() and part != "__pycache__":
                (there / part).symlink_to(target, target_is_directory=target.is_dir())


def wheel(folder: Path) -> Path:
    """The package as a wheel, built by the backend that is installed here."""
    _pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT))
    (built,) = folder.glob("attn_course-*.whl")
    return built


def set_up(source: str, built: Path) -> str:
    """The set-up cell, with the wheel where it names the repository.

    Raises:
        ValueError: the cell does not install ``git+`` its repository in the one place where it should.
    """
    address = 'f"git+{repository}"'
    if source.count(address) != 1 or '"--no-deps"' not in source:
        raise ValueError(f"the set-up cell must hold {address} once, and --no-deps:\n{source}")
    return source.replace(address, repr(str(built)))


# --- what the notebooks use -----------------------------------------------------------------------


def used(notebook: NotebookNode) -> dict[str, list[str]]:
    """Every name that the cells take from a module, spelled out -> the keywords that they call it with.

    ``import torch.nn.functional as F`` and ``F.relu(x, inplace=True)`` give ``{"torch.nn.functional": [],
    "torch.nn.functional.relu": ["inplace"]}``.
    """
    trees = [ast.parse(cell.source) for cell in notebooks.code_cells(notebook)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    full: dict[str, str] = {}
    found: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for name in node.names:
                full[name.asname or name.name.split(".")[0]] = (
                    name.name if name.asname else name.name.split(".")[0]
                )
                found.setdefault(name.name, set())
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                full[name.asname or name.name] = f"{node.module}.{name.name}"
                found.setdefault(f"{node.module}.{name.name}", set())
    # A name that a cell also gives to something else says nothing about a module.
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            full.pop(node.id, None)
        elif isinstance(node, ast.arg):
            full.pop(node.arg, None)
    for node in nodes:
        if isinstance(node, ast.Attribute | ast.Name) and (name := _spelled_out(node, full)):
            found.setdefault(name, set())
        if isinstance(node, ast.Call) and (name := _spelled_out(node.func, full)):
            found.setdefault(name, set()).update(key.arg for key in node.keywords if key.arg)
    return {name: sorted(keys) for name, keys in sorted(found.items())}


def _spelled_out(node: ast.AST, full: dict[str, str]) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return ".".join([full[node.id], *parts]) if isinstance(node, ast.Name) and node.id in full else None


def missing(names: dict[str, list[str]]) -> list[str]:
    """What of `used` there is not, or takes other keywords. It runs in the other environment, so it stands alone."""
    import importlib
    import inspect

    wrong = []
    for name, keywords in names.items():
        parts, thing, at = name.split("."), None, 0
        for at in range(len(parts), 0, -1):
            try:
                thing = importlib.import_module(".".join(parts[:at]))
                break
            except ModuleNotFoundError:
                continue
        if thing is None:
            wrong.append(f"no module {parts[0]}")
            continue
        for part in parts[at:]:
            if not hasattr(thing, part):
                wrong.append(f"no {part} in {'.'.join(parts[:at])} (for {name})")
                break
            thing, at = getattr(thing, part), at + 1
        else:
            try:
                parameters = inspect.signature(thing).parameters if keywords else {}
            except (TypeError, ValueError):  # written in C: it does not tell
                continue
            if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
                wrong += [f"{name} takes no {key}=" for key in keywords if key not in parameters]
    return wrong


# --- running there --------------------------------------------------------------------------------


class Kernel(KernelSpecManager):
    """The kernel of another Python, whatever is registered on this machine."""

    def __init__(self, python: Path) -> None:
        super().__init__()
        self.python = python

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        command = [str(self.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="as in Colab", language="python")


def run(notebook: NotebookNode, python: Path) -> None:
    """Run a notebook to its last cell, with Colab's kernel, in an empty folder.

    Raises:
        CellExecutionError, DeadKernelError, TimeoutError: it did not get there.
    """
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False)
        client.create_kernel_manager()
        client.km.kernel_spec_manager = Kernel(python)
        elsewhere = {"PYTHONPATH", "VIRTUAL_ENV", "MPLBACKEND", "JUPYTER_PATH"}
        variables = {name: value for name, value in notebooks.environment().items() if name not in elsewhere}
        variables |= {"IPYTHONDIR": folder, "PYTHONNOUSERSITE": "1"}
        asyncio.run(_all_cells(client, variables, folder))


async def _all_cells(client: NotebookClient, variables: dict[str, str], folder: str) -> None:
    async with client.async_setup_kernel(env=variables, cwd=folder):
        for index, cell in enumerate(client.nb.cells):
            await client.async_execute_cell(cell, index)


def chapter(source: Path) -> NotebookNode:
    """A chapter as it is handed to Colab, without outputs."""
    return notebooks.build(source, None)


def trial(built: Path) -> NotebookNode:
    """A notebook that installs the package and tries what the chapters use, kind by kind."""
    books = [chapter(source) for source in notebooks.sources()]
    names: dict[str, set[str]] = {}
    for book in books:
        for name, keywords in used(book).items():
            names.setdefault(name, set()).update(keywords)
    wanted = {name: sorted(keywords) for name, keywords in names.items()}
    first = next(cell.source for cell in books[0].cells if notebooks.is_setup(cell))
    cells = [
        set_up(first, built),
        f"{inspect.getsource(missing)}\nimport json\nprint(json.dumps(missing({wanted!r})))",
        "import torch\nfrom attn_course.exercises import get\n"
        'get("causal-mask").check(lambda n: torch.ones(n, n).tril().bool())',
        "import matplotlib.pyplot as plt\nfrom attn_course import plots\nplots.use_house_style()\n"
        'plots.masks([torch.ones(5, 5).tril().bool()], ["Causal: no future"])\nplt.show()',
        *(
            f"import runpy\nrunpy.run_path({str(path)!r})['make']()"
            for path in sorted(FIGURES.glob("*.py"))
            if not path.stem.startswith("_")
        ),
    ]
    return new_notebook(cells=[new_code_cell(cell) for cell in cells])


def faults(tried: NotebookNode) -> list[str]:
    """What a `trial` that ran to its end shows to be wrong."""
    found: list[str] = []
    setup, names, exercise, plot, *live = tried.cells
    if "Python" not in _text(setup):
        found.append(f"the set-up cell did not introduce itself: {_text(setup)!r}")
    found += json.loads(_text(names).splitlines()[-1])
    panel = _shown(exercise).get("text/html", "")
    if "causal-mask: passed" not in panel:
        found.append(f"the panel of a right answer is {panel[:200]!r}")
    if "image/png" not in _shown(plot):
        found.append("a figure of plots gave no picture")
    for cell in live:
        shown = _shown(cell)
        wanted = {WIDGET, FIGURE, "text/plain"}
        if wanted - set(shown):
            found.append(
                f"no {', '.join(sorted(wanted - set(shown)))} from {cell.source.splitlines()[-1]}: {_text(cell)}"
            )
    return found


def _text(cell: NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def _shown(cell: NotebookNode) -> dict[str, Any]:
    return {mime: value for output in cell.outputs for mime, value in output.get("data", {}).items()}


@contextlib.contextmanager
def as_in_colab() -> Iterator[tuple[Path, list[str]]]:
    """The Python of the environment with the package in it, and what the trial of it found wrong."""
    python = environment()
    before = installed(python)
    with tempfile.TemporaryDirectory() as folder:
        notebook = trial(wheel(Path(folder)))
        try:
            run(notebook, python)
            wrong = faults(notebook)
        except (CellExecutionError, DeadKernelError, TimeoutError) as error:
            wrong = [notebooks._plain(str(error))]
    after = installed(python)
    came = {name for name in after if after[name] != before.get(name)}
    if came != {"attn-course"}:
        wrong.append(f"the set-up cell changed {', '.join(sorted(came)) or 'nothing'}, not attn-course alone")
    yield python, wrong


def versions(python: Path) -> dict[str, str]:
    """What the environment really has, Python first."""
    have = installed(python)
    return {"python": platform.python_version(), **{name: have[name] for name in SHOWN}}


# --- the record -----------------------------------------------------------------------------------


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def state(source: Path) -> dict[str, Any]:
    """What of a chapter has to be as it was when it passed: its code, the names it uses, the package's version."""
    notebook = chapter(source)
    names = used(notebook)
    listed = json.dumps(names, sort_keys=True).encode()
    return {
        "code": notebooks.fingerprint(notebook),
        "names": len(names),
        "names_hash": _hash(listed),
        "package": metadata.version("attn-course"),
        "constraints": _hash(
            "\n".join(sorted(f"{k}=={v}" for k, v in notebooks.pins(PINS).items())).encode()
        ),
    }


def stale(record: dict[str, Any], sources: list[Path]) -> dict[str, str]:
    """Chapter -> why what the record says of it does not hold today."""
    words = {
        "code": "its code changed",
        "names": "it uses other names",
        "names_hash": "it uses other names",
        "package": "the package has another version",
        "constraints": "Colab's versions changed",
    }
    found = {}
    for source in sources:
        then, now = record.get("chapters", {}).get(source.stem), state(source)
        if then is None:
            found[source.stem] = "it never passed"
        elif changed := sorted({words[key] for key in now if then.get(key) != now[key]}):
            found[source.stem] = ", ".join(changed)
    return found


def load(path: Path = RECORD) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def record(names: list[str], force: bool) -> int:
    """Run the chapters that changed since they last passed, and keep which passed."""
    chosen, kept = notebooks.sources(names), load()
    why = {source.stem: "asked for" for source in chosen} if force else stale(kept, chosen)
    if not why:
        print("colab: every chapter passed as it is now")
        return 0
    chapters = {source.stem: kept.get("chapters", {}).get(source.stem) for source in notebooks.sources()}
    failed = []
    with as_in_colab() as (python, wrong):
        for line in wrong:
            print(f"colab: {line}", file=sys.stderr)
        if wrong:
            return 1
        for source in chosen:
            if source.stem not in why:
                continue
            print(f"colab: {source.stem}: {why[source.stem]}: running", flush=True)
            started, now = time.monotonic(), state(source)
            try:
                run(chapter(source), python)
            except (CellExecutionError, DeadKernelError, TimeoutError) as error:
                failed.append(source.stem)
                print(f"colab: {source.stem}: {notebooks._plain(str(error))}", file=sys.stderr)
                continue
            took = round(time.monotonic() - started)
            print(f"colab: {source.stem}: passed in {took} s", flush=True)
            today = datetime.now(UTC).date().isoformat()
            where = {"seconds": took, "machine": machine.describe(), "versions": versions(python)}
            chapters[source.stem] = {"passed": today, **now, **where}
            about = published()
            told = {"colab": about, "chapters": {k: v for k, v in chapters.items() if v}}
            RECORD.parent.mkdir(exist_ok=True)
            notebooks.write(RECORD, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    print(f"colab: {len(why)} run, {len(failed)} failed")
    return 1 if failed else 0


def check() -> int:
    """The trial, and the quickest chapter."""
    with as_in_colab() as (python, wrong):
        print("colab: " + ", ".join(f"{name} {number}" for name, number in versions(python).items()))
        (source,) = notebooks.sources([QUICKEST])
        try:
            run(chapter(source), python)
        except (CellExecutionError, DeadKernelError, TimeoutError) as error:
            wrong = [*wrong, f"{source.stem}: {notebooks._plain(str(error))}"]
    for line in wrong:
        print(f"colab: {line}", file=sys.stderr)
    print(
        f"colab: {'FAILED' if wrong else 'all that the notebooks use is there, and ' + source.stem + ' runs'}"
    )
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check")
    keep = commands.add_parser("record")
    keep.add_argument("--force", action="store_true", help="also what did not change")
    keep.add_argument("names", nargs="*")
    options = parser.parse_args()
    return check() if options.command == "check" else record(options.names, options.force)


if __name__ == "__main__":
    sys.exit(main())
