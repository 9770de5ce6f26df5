"""The chapters' notebooks: which are out of date, and why; run them; check them.

    python tools/notebooks.py update [--force] [NAME …]  re-run what is out of date (or all), carry prose over
    python tools/notebooks.py status [NAME …]            only say; exit status 1 if something is out of date
    python tools/notebooks.py check [--lax] [NAME …]     every notebook through nbval, against its outputs

The source of a chapter is ``notebooks/NN_name.py`` (jupytext percent format); ``NN_name.ipynb`` beside it is
made here, with the outputs of its last run. A notebook is out of date when its code, a package or data file
that its run read, the records in a folder of ``results/`` that it looked through, or the version of a library
that it imported has changed. Comments, docstrings, prose and the set-up cell do not count.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
SIDE_BY_SIDE = 2
CELL_SECONDS = 300
# Libraries whose version can change an output. Only those that a notebook imported count for it.
MATTER = (
    "torch",
    "numpy",
    "matplotlib",
    "seaborn",
    "pandas",
    "scikit-learn",
    "scipy",
    "safetensors",
    "ipywidgets",
)
IMPORTED_AS = {"scikit-learn": "sklearn"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


# --- what a notebook is ---------------------------------------------------------------------------


def sources(names: list[str] | None = None, folder: Path = FOLDER) -> list[Path]:
    """The chapters' ``.py`` files, in reading order; ``names`` picks some by any part of their name."""
    found = sorted(path for path in folder.glob("*.py") if re.match(r"\d\d_", path.name))
    unknown = [name for name in names or [] if not any(Path(name).stem in path.stem for path in found)]
    if unknown:
        raise SystemExit(f"no notebook {', '.join(unknown)}; there are: {', '.join(p.stem for p in found)}")
    return [path for path in found if not names or any(Path(name).stem in path.stem for name in names)]


def is_setup(cell: NotebookNode) -> bool:
    return "setup" in cell.metadata.get("tags", [])


def code_cells(notebook: NotebookNode, *, setup: bool = True) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and (setup or not is_setup(cell))]


def runs_alone(notebook: NotebookNode) -> bool:
    """Whether the notebook times things, and so runs with the machine to itself."""
    return bool(notebook.metadata.get("attn_course", {}).get("alone", False))


def build(source: Path, stored: NotebookNode | None) -> NotebookNode:
    """The notebook that ``source`` describes, with the outputs of ``stored`` where the code cells pair up."""
    made = jupytext.read(source, fmt="py:percent")
    old = stored.metadata.get("attn_course", {}) if stored else {}
    header = {key: value for key, value in made.metadata.items() if key not in {"jupytext", "kernelspec"}}
    alone = {"alone": True} if runs_alone(made) else {}
    made.metadata = nbformat.from_dict(
        {
            "accelerator": "GPU",  # asks Colab for one; without one everything still runs
            **header,
            "attn_course": {**{key: value for key, value in old.items() if key != "alone"}, **alone},
            "jupytext": {"formats": "ipynb,py:percent"},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    made.nbformat, made.nbformat_minor = 4, 5
    name_cells(made)
    if stored is not None:
        here, there = code_cells(made), code_cells(stored)
        if len(here) == len(there):
            for new, last in zip(here, there, strict=True):
                new.outputs, new.execution_count = last.outputs, last.execution_count
    return made


def name_cells(notebook: NotebookNode) -> None:
    """Ids that depend on a cell's text alone, so that an insertion leaves the other cells' ids alone."""
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        name = "setup" if is_setup(cell) else _short(cell.source.encode())
        seen[name] = seen.get(name, 0) + 1
        cell["id"] = name if seen[name] == 1 else f"{name}-{seen[name]}"


def text_of(notebook: NotebookNode) -> str:
    """The bytes of the ``.ipynb``, always the same for the same notebook."""
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT).rstrip("\n") + "\n"


def load(path: Path) -> NotebookNode | None:
    """The stored notebook, or None where there is none that can be read."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.reader.NotJSONError, nbformat.ValidationError):
        return None


def write(path: Path, text: str) -> bool:
    """Put ``text`` in place whole or not at all; True if the file changed."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, suffix=".new", delete=False
    ) as file:
        file.write(text)
    os.chmod(file.name, path.stat().st_mode if path.exists() else 0o644)
    os.replace(file.name, path)
    return True


# --- fingerprints ---------------------------------------------------------------------------------


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def skeleton(node: Any) -> Any:
    """A syntax tree as plain data, without positions, comments and docstrings, alike on every Python."""
    if isinstance(node, list):
        return [skeleton(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    if isinstance(
        node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
    ) and _has_docstring(node):
        fields["body"] = node.body[1:]
    return [type(node).__name__, [(name, skeleton(value)) for name, value in fields.items()]]


def _has_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module) -> bool:
    first = node.body[0] if node.body else None
    return (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )


def hash_of_module(text: str) -> str:
    """Changes when the code of a Python file does, not when its comments or docstrings do."""
    return _short(repr(skeleton(ast.parse(text))).encode())


def hash_of_cell(source: str) -> str:
    """The same for one code cell; a bare string at its start is an output there, so it counts."""
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        body = ast.parse(TransformerManager().transform_cell(source)).body
    except SyntaxError:
        return _short(source.encode())
    return _short(repr([skeleton(statement) for statement in body]).encode())


def hash_of_file(path: Path) -> str:
    if path.suffix == ".py":
        try:
            return hash_of_module(path.read_text(encoding="utf-8"))
        except SyntaxError:
            pass
    return _short(path.read_bytes())


def fingerprint(notebook: NotebookNode) -> str:
    """Of the notebook's own code, set-up cell apart."""
    return _short("".join(hash_of_cell(cell.source) for cell in code_cells(notebook, setup=False)).encode())


def pins(constraints: Path) -> dict[str, str]:
    """Library -> pinned version."""
    if not constraints.exists():
        return {}
    lines = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", constraints.read_text(), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in lines}


def reasons(source: Path, root: Path = ROOT) -> list[str]:
    """Why the stored notebook of ``source`` is out of date; empty if it is not."""
    stored = load(source.with_suffix(".ipynb"))
    if stored is None:
        return ["it has no stored run"]
    record = stored.metadata.get("attn_course", {})
    if "fingerprint" not in record:
        return ["it has no stored run"]
    found = []
    new = jupytext.read(source, fmt="py:percent")
    if fingerprint(new) != record["fingerprint"] or len(code_cells(new)) != len(code_cells(stored)):
        found.append(_which_cell(new, stored))
    counts = [cell.execution_count for cell in code_cells(stored)]
    if counts != list(range(1, len(counts) + 1)):
        found.append("its stored run is not complete")
    if any(_unexpected_error(cell) for cell in code_cells(stored)):
        found.append("its stored run holds an error")
    for name, value in record.get("files", {}).items():
        path = root / name
        if not path.exists():
            found.append(f"{name} is gone")
        elif hash_of_file(path) != value:
            found.append(f"{name} changed")
    for name, held in record.get("folders", {}).items():
        holds = _records(root / name)
        found += [f"{name}/{one} is new" for one in holds if one not in held]
    pinned = pins(root / "constraints.txt")
    for name, version in record.get("pins", {}).items():
        if pinned.get(name, version) != version:
            found.append(f"{name} is pinned to {pinned[name]}, it ran with {version}")
    return found


def _records(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.json"))


def _which_cell(new: NotebookNode, stored: NotebookNode) -> str:
    here, there = code_cells(new, setup=False), code_cells(stored, setup=False)
    for number, cell in enumerate(here, start=1):
        if number > len(there) or hash_of_cell(cell.source) != hash_of_cell(there[number - 1].source):
            first = next(iter(cell.source.strip().splitlines()), "")
            return f"its code changed, from code cell {number} on ({first[:60]})"
    return "its code changed" if len(here) == len(there) else "code cells were taken out"


def _unexpected_error(cell: NotebookNode) -> bool:
    failed = any(output.output_type == "error" for output in cell.outputs)
    return failed and "raises-exception" not in cell.metadata.get("tags", [])


# --- outputs that differ from run to run ----------------------------------------------------------

_BAR = re.compile(r"\d+%\|.*?\||\d+it \[|\bit/s\b|s/it\b|^HBox\(children=\((HTML|FloatProgress)")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_UUID = re.compile(r"\b(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b")
_WIDGET = "application/vnd.jupyter.widget-view+json"
_UNSTEADY = (
    (re.compile(re.escape(str(ROOT)) + r"(?=/|\b)"), "."),
    (re.compile(r"(?:/[^\s/:'\"]+)*/(?:site|dist)-packages/"), "site-packages/"),
    (re.compile(r"(?:/[^\s/:'\"]+)*/ipykernel_\d+/\d+\.py"), "<cell>"),
    (re.compile(r"\b0x[0-9a-fA-F]{6,16}\b"), "0x…"),
)


def steady(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs without what no two runs share: progress bars, object addresses, places on the disk."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            text = _steady_text(_without_bars(output.text) if output.name == "stderr" else output.text)
            last = next(
                (one for one in kept if one.output_type == "stream" and one.name == output.name), None
            )
            if text and last is not None:
                last.text += text
            elif text:
                kept.append(nbformat.from_dict({**output, "text": text}))
        elif output.output_type == "error":
            told = {
                "evalue": _steady_text(output.evalue),
                "traceback": [_steady_text(t) for t in output.traceback],
            }
            kept.append(nbformat.from_dict({**output, **told}))
        elif not _is_bar(output):
            data = {mime: _steady_data(mime, value) for mime, value in output.data.items()}
            kept.append(nbformat.from_dict({**output, "data": data}))
    return kept


def _without_bars(text: str) -> str:
    lines = [line.split("\r")[-1] for line in text.split("\n")]
    return "\n".join(line for line in lines if not _BAR.search(line)) if _BAR.search(text) else text


def _is_bar(output: NotebookNode) -> bool:
    return _WIDGET in output.data and bool(_BAR.search(str(output.data.get("text/plain", ""))))


def _steady_text(text: str) -> str:
    for pattern, instead in _UNSTEADY:
        text = pattern.sub(instead, text)
    return text


def _steady_data(mime: str, value: Any) -> Any:
    if mime == _WIDGET:  # its number comes in number_ids
        return value
    if not isinstance(value, str) or (mime.startswith("image/") and mime != "image/svg+xml"):
        return value
    return _steady_text(value)


def number_ids(notebook: NotebookNode) -> None:
    """Random ids in HTML, SVG and widget outputs become 1, 2, … in order of appearance."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return numbers.setdefault(match[0], f"{len(numbers) + 1:032x}")

    for cell in code_cells(notebook):
        for output in cell.outputs:
            for mime, value in output.get("data", {}).items():
                if mime in {"text/html", "image/svg+xml", "application/javascript"} and isinstance(
                    value, str
                ):
                    output.data[mime] = _UUID.sub(number, value)
                elif mime == _WIDGET and "model_id" in value:
                    value["model_id"] = _UUID.sub(number, value["model_id"])


# --- running --------------------------------------------------------------------------------------

# Runs in the kernel before the first cell: notes which files of the course the notebook reads, and which folders it
# looks through.
_BEFORE = """
def watch():
    import os, sys
    read, listed = set(), set()
    def hook(event, args):
        if event == "open" and isinstance(args[0], str) and not set("wax+") & set(args[1] or "r"):
            read.add(args[0])
        elif event in ("os.scandir", "os.listdir") and isinstance(args[0], (str, os.PathLike)):
            listed.add(os.fspath(args[0]))
    sys.addaudithook(hook)
    sys._attn_course_read = read, listed
watch()
"""

# Runs in the kernel after the last cell.
_AFTER = """
def report(path, libraries):
    import importlib.metadata, json, os, sys
    versions = {}
    for name, module in libraries.items():
        if module in sys.modules:
            versions[name] = importlib.metadata.version(name)
    ours = [module for name, module in list(sys.modules.items()) if name.split(".")[0] == "attn_course"]
    modules = [getattr(module, "__file__", None) for module in ours]
    here = os.getcwd()
    read, listed = ([os.path.join(here, name) for name in names] for names in sys._attn_course_read)
    told = {"modules": [m for m in modules if m], "read": read, "listed": listed, "versions": versions}
    from attn_course import machine
    with open(path, "w") as file:
        json.dump({**told, "shown": machine.versions(), "machine": machine.describe()}, file)
report({path!r}, {libraries!r})
"""


class ThisPython(KernelSpecManager):
    """Finds one kernel, whatever is installed elsewhere: this interpreter."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        spec = get_kernel_dict()
        return KernelSpec(**{**spec, "argv": [*spec["argv"], "--log-level=40"]})


def environment() -> dict[str, str]:
    """What a kernel gets: one thread, always. Stored outputs then come from one setting, and a second process
    beside a small model on two threads makes it 16 times slower (measured)."""
    threads = {name: "1" for name in THREADS}
    clean = {
        "PYTHONHASHSEED": "0",
        "IPYTHONDIR": str(_ipython_folder()),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    return {**os.environ, **threads, **clean}


@functools.cache
def _ipython_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="ipython-"))


async def execute(notebook: NotebookNode, folder: Path, progress: Any = None, root: Path = ROOT) -> None:
    """Run every cell of ``notebook`` in a kernel of its own; outputs and the record of the run go into it."""
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=True,  # nbclient needs it for Output widgets; it stays out of the file
        resources={"metadata": {"path": str(folder)}},
    )
    client.create_kernel_manager()
    client.km.kernel_spec_manager = ThisPython()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "report.json")
        libraries = {name: IMPORTED_AS.get(name, name) for name in MATTER}
        async with client.async_setup_kernel(env=environment(), cwd=str(folder)):
            await _quietly(client, _BEFORE)
            for index, cell in enumerate(notebook.cells):
                await client.async_execute_cell(cell, index)
                if progress:
                    progress(index + 1, len(notebook.cells))
            await _quietly(
                client, _AFTER.replace("{path!r}", repr(str(path))).replace("{libraries!r}", repr(libraries))
            )
        told = json.loads(path.read_text())
    for cell in code_cells(notebook):
        cell.outputs = steady(cell.outputs)
    number_ids(notebook)
    notebook.metadata["attn_course"] = _record(notebook, told, root)


async def _quietly(client: NotebookClient, code: str) -> None:
    """Run ``code`` in the kernel without a trace in its names, its counter and its history."""
    reply = await client.kc._async_execute_interactive(
        f"exec({code!r}, {{}})", silent=True, store_history=False
    )
    if reply["content"]["status"] != "ok":
        raise RuntimeError(f"the kernel refused: {reply['content']}")


def _record(notebook: NotebookNode, told: dict[str, Any], root: Path) -> NotebookNode:
    package = {Path(name).resolve() for name in told["modules"]}
    data = {Path(name).resolve() for name in told["read"]}
    data = {p for p in data if p.suffix not in {".py", ".pyc"} and p.is_file() and _is_ours(p, root)}
    files = {
        p.relative_to(root).as_posix(): hash_of_file(p) for p in package | data if p.is_relative_to(root)
    }
    listed = {Path(name).resolve() for name in told["listed"]}
    folders = {
        p.relative_to(root).as_posix(): _records(p) for p in listed if p.is_relative_to(root / "results")
    }
    pinned = pins(root / "constraints.txt")
    return nbformat.from_dict(
        {
            **({"alone": True} if runs_alone(notebook) else {}),
            "fingerprint": fingerprint(notebook),
            "files": dict(sorted(files.items())),
            **({"folders": dict(sorted(folders.items()))} if folders else {}),
            "pins": {
                name: version.split("+")[0] for name, version in told["versions"].items() if name in pinned
            },
            "versions": told["shown"],
            "machine": told["machine"],
        }
    )


def _is_ours(path: Path, root: Path) -> bool:
    """Data that the course keeps: in results/ or in the package."""
    return path.is_relative_to(root) and path.relative_to(root).parts[0] in {"results", "attn_course"}


# --- commands -------------------------------------------------------------------------------------


def synchronise(source: Path) -> bool:
    """Carry prose, tags and captions over to the ``.ipynb`` without running; True if it changed."""
    path = source.with_suffix(".ipynb")
    return write(path, text_of(build(source, load(path))))


async def rerun(source: Path, root: Path = ROOT) -> str | None:
    """Run one notebook and store it; None, or what went wrong, and then the stored one is as it was."""
    started = time.monotonic()
    print(f"{source.stem}: running", flush=True)
    notebook = build(source, None)
    said = started

    def progress(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > 15:
            said = time.monotonic()
            print(f"{source.stem}: cell {done} of {total}, {said - started:.0f} s", flush=True)

    try:
        await execute(notebook, source.parent, progress, root)
    except CellExecutionError as error:
        cell = next((i for i, one in enumerate(notebook.cells) if _failed(one)), None)
        where = f"cell {cell + 1}" if cell is not None else "a cell"
        return f"{source.name}: {where} failed\n{_plain(str(error))}"
    except (DeadKernelError, TimeoutError, RuntimeError) as error:
        return f"{source.name}: {type(error).__name__}: {_plain(str(error))}"
    changed = write(source.with_suffix(".ipynb"), text_of(notebook))
    told = "" if changed else ", the same bytes as before"
    print(f"{source.stem}: done in {time.monotonic() - started:.0f} s{told}", flush=True)
    return None


def _failed(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and _unexpected_error(cell)


def _plain(text: str) -> str:
    return text if sys.stdout.isatty() else _ESCAPE.sub("", text)


async def rerun_all(chosen: list[Path], root: Path = ROOT) -> list[str]:
    """Run notebooks two at a time, those that time things alone and last; what went wrong, in their order."""
    together = [path for path in chosen if not runs_alone(jupytext.read(path))]
    places = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(path: Path) -> str | None:
        async with places:
            return await rerun(path, root)

    results = await asyncio.gather(*(one(path) for path in together))
    results += [await rerun(path, root) for path in chosen if path not in together]
    return [result for result in results if result]


def update(names: list[str], force: bool, folder: Path = FOLDER, root: Path = ROOT) -> int:
    chosen = sources(names, folder)
    due = []
    for path in chosen:
        why = ["asked for"] if force else reasons(path, root)
        if why:
            due.append(path)
            print(f"{path.stem}: out of date: {'; '.join(why)}", flush=True)
        else:
            print(f"{path.stem}: {'prose carried over' if synchronise(path) else 'up to date'}", flush=True)
    try:
        failures = asyncio.run(rerun_all(due, root))
    except KeyboardInterrupt:
        print("notebooks: interrupted; what was finished is stored", file=sys.stderr)
        return 130
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"notebooks: {len(chosen)} in all, {len(due) - len(failures)} run, {len(failures)} failed")
    return 1 if failures else 0


def status(names: list[str], folder: Path = FOLDER, root: Path = ROOT) -> int:
    old = {path: why for path in sources(names, folder) if (why := reasons(path, root))}
    for path, why in old.items():
        print(f"{path.stem}: {'; '.join(why)}")
    print(f"notebooks: {len(old)} out of date")
    return 1 if old else 0


def nbval_command(paths: list[Path], lax: bool) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tools.nbval_guard"]
    command += [
        "--nbval-lax" if lax else "--nbval",
        "--nbval-current-env",
        "--nbval-cell-timeout",
        str(CELL_SECONDS),
    ]
    command += ["--nbval-sanitize-with", str(ROOT / "tools" / "nbval_sanitize.cfg")]
    return [*command, *map(str, paths)]


def check(names: list[str], lax: bool, folder: Path = FOLDER) -> int:
    """nbval, as the stored outputs were made: two side by side, and those that time things alone."""
    stored = [path.with_suffix(".ipynb") for path in sources(names, folder)]
    missing = [path.name for path in stored if not path.exists()]
    if missing or not stored:
        print(
            f"notebooks: nothing stored for {', '.join(missing) or 'any chapter'}; `make notebooks`",
            file=sys.stderr,
        )
        return 1
    alone = [path for path in stored if runs_alone(load(path) or nbformat.v4.new_notebook())]
    together = [path for path in stored if path not in alone]
    result = 0
    for paths, by_itself in ((together, False), (alone, True)):
        if paths:
            spread = [] if by_itself else ["-n", str(min(SIDE_BY_SIDE, len(paths))), "--dist", "loadfile"]
            command = [*nbval_command(paths, lax), *spread]
            result |= subprocess.run(command, cwd=ROOT, env=environment()).returncode
    print(f"notebooks: {len(stored)} checked, {'FAILED' if result else 'all cells as stored'}")
    return 1 if result else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, flag in (("update", "--force"), ("status", None), ("check", "--lax")):
        command = commands.add_parser(name)
        command.add_argument("names", nargs="*")
        if flag:
            command.add_argument(flag, action="store_true")
    options = parser.parse_args()
    if options.command == "update":
        return update(options.names, options.force)
    if options.command == "status":
        return status(options.names)
    return check(options.names, options.lax)


if __name__ == "__main__":
    sys.exit(main())
