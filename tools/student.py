"""The chapters for a class: notebooks without outputs and without answers, in a folder that can be handed out.

    python tools/student.py [--out FOLDER]     writes FOLDER (default: student/), whole or not at all

In a student's notebook the exercises' cells stand as they are. Where a chapter defines the function itself, below the
exercise, the definition is replaced by the course's own, called by name; so every cell runs, also where no exercise was
done. An answer is recognised by its name: a function ``…_by_definition`` or a class ``…ByDefinition`` in the cell
that takes ``get("exercise").use(…)``.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import jupytext
import nbformat
from nbformat import NotebookNode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools import notebooks, repository

ROOT = notebooks.ROOT
ANSWER = re.compile(r"\w*_by_definition|\w+ByDefinition")
# What a folder holds that was written here: its files and what was in them.
LIST = ".handed-out.json"
# A link to a file of the course, in prose or in a sentence that a run writes.
LINK = re.compile(r"\]\((?!\w+:)([\w./-]+\.(?:md|ipynb|html|json|py|png|svg|txt))(#[^)\s]*)?\)")


# --- one notebook ---------------------------------------------------------------------------------


def without_answers(source: str, page: str) -> str:
    """A code cell whose own definitions of an exercise's function are replaced by the course's, by name.

    Raises:
        ValueError: the cell has not one ``get("exercise").use(…)`` for each definition, in their order.
    """
    tree = ast.parse(source)
    answers = [node for node in tree.body if _is_answer(node)]
    if not answers:
        return source
    uses = list(dict.fromkeys(re.findall(r'\bget\("([\w-]+)"\)\.use\(', source)))
    if len(uses) != len(answers):
        names = ", ".join(node.name for node in answers)
        raise ValueError(
            f"{names}: {len(answers)} definitions, but the cell uses {', '.join(uses) or 'none'}"
        )
    lines = source.splitlines()
    for node, exercise in reversed(list(zip(answers, uses, strict=True))):
        first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
        lines[first - 1 : node.end_lineno] = [f'{node.name} = get("{exercise}").reference']
    at = min(number for number, line in enumerate(lines) if ".reference" in line)
    lines.insert(at, f"# Our definition is left out in this copy; it stands in the book:\n# {page}")
    return re.sub(r"(\.reference)\n\n+", r"\1\n", "\n".join(lines))


def _is_answer(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef) and bool(ANSWER.fullmatch(node.name))


def with_whole_links(text: str, here: repository.Repository, branch: str) -> str:
    """The same with its links to pages and files of the course leading to the published ones: Colab knows no others."""

    def whole(match: re.Match[str]) -> str:
        path, anchor = os.path.normpath(f"notebooks/{match[1]}"), match[2] or ""
        if re.fullmatch(r"(book/[\w-]+\.md|notebooks/[\w-]+\.ipynb)", path):
            return f"]({here.pages}/{path.rpartition('.')[0]}.html{anchor})"
        return f"]({here.url}/blob/{branch}/{quote(path)}{anchor})"

    return LINK.sub(whole, text)


def handout(source: Path, root: Path = ROOT) -> NotebookNode:
    """A chapter as a student gets it.

    Raises:
        ValueError: see `without_answers`; the message names the notebook and the cell.
    """
    here, branch = repository.current(root), _branch(root)
    page = f"{here.pages}/notebooks/{source.stem}.html"
    made = jupytext.read(source, fmt="py:percent")
    # No word of a GPU: a class that asks Colab for one in the same minute does not get it, and no cell needs it.
    made.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    made.nbformat, made.nbformat_minor = 4, 5
    notebooks.name_cells(made)  # the ids of the chapter: a cell keeps its id although its text is another
    for number, cell in enumerate(made.cells, start=1):
        cell.source = with_whole_links(cell.source, here, branch)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            try:
                cell.source = without_answers(cell.source, page)
            except ValueError as error:
                raise ValueError(f"{source.name}, cell {number}: {error}") from None
    return made


def _branch(root: Path) -> str:
    match = re.search(r"^ +branch:[ \t]*(\S+)", (root / "_config.yml").read_text("utf-8"), re.MULTILINE)
    return match[1] if match else "main"


# --- the folder -----------------------------------------------------------------------------------


def readme(chapters: dict[str, NotebookNode], here: repository.Repository) -> str:
    """What a student reads first."""
    rows = []
    for name, notebook in chapters.items():
        title = re.search(r"^# (.+)$", notebook.cells[0].source, re.MULTILINE)
        count = sum(".check(" in cell.source and "get(" in cell.source for cell in notebook.cells)
        rows.append(f"| [{name}]({name}) | {title[1] if title else name} | {count} |")
    return f"""\
# A course on attention: your notebooks

| notebook | its question | exercises |
|---|---|---|
{chr(10).join(rows)}

Read the same text with all its figures in the book: <{here.pages}>.

## Start in Colab

Nothing to install. Open <https://colab.research.google.com>, choose *File*, *Upload notebook*, and take one of these
files. Run the first cell: it installs the course's package. Save your work with *File*, *Save a copy in Drive*, or
download it: what is not saved is gone when the session ends. No cell needs a graphics card.

## Start on your own machine

With Python 3.10 or newer, in this folder:

    python -m venv .venv
    . .venv/bin/activate            # on Windows: .venv\\Scripts\\activate
    pip install -r requirements.txt
    jupyter lab

The download is about 1 GB, most of it PyTorch. Afterwards no cell needs a network: the data comes with the packages.

## Do an exercise

Each exercise has a cell with a function that is empty, and below it a cell that checks it. Write the function, then run
both: the check says whether it is right, or which mistake it makes. `get("causal-mask").hint()` gives a first hint,
`hint(2)` the next. An exercise that you leave out breaks nothing: later cells then take the course's function.

Change only the cells of the exercises, and add cells of your own; do not rename the function. An answer may use Python,
torch and functions of your own, not the course's. Before you hand a notebook in, check all of it at once:

    attn-course check {next(iter(chapters))}

Where that says that it cannot lock your code in, as on Windows or a Mac, add `--weak-sandbox`: the code is your own.

The answers are in the package that you installed, for whoever looks for them. You learn more if you do not.

## Licences

From <{here.url}>. Text: CC BY 4.0. Code: MIT.
"""


def requirements(here: repository.Repository) -> str:
    return f"attn-course[notebooks] @ git+{here.url}\njupyterlab>=4\n"


def files(root: Path = ROOT) -> dict[str, str]:
    """Name -> text of all that is handed out."""
    chosen = notebooks.sources(folder=root / "notebooks")
    made = {f"{source.stem}.ipynb": handout(source, root) for source in chosen}
    here = repository.current(root)
    texts = {name: notebooks.text_of(notebook) for name, notebook in made.items()}
    return {**texts, "README.md": readme(made, here), "requirements.txt": requirements(here)}


def not_ours(folder: Path) -> list[str]:
    """What stands in a folder that was not written here, or was changed since."""
    listed: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        listed = json.loads((folder / LIST).read_text(encoding="utf-8"))
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (name == LIST and listed) or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink() or listed.get(name) != _hash(path.read_bytes()):
            found.append(name)
    return found


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(folder: Path, texts: dict[str, str]) -> None:
    """Write a folder whole or not at all; a folder that was written here before is replaced.

    Raises:
        ValueError: the folder holds something else, or it is a file.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder that is empty or not there yet")
    if folder.exists() and (strange := not_ours(folder)):
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise ValueError(
            f"{folder} is not empty, and was not written by make student or was changed since "
            f"({', '.join(strange[:3])}{more}); name another with OUT=…, or move what is in it"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-", suffix=".new"))
    old = new.with_suffix(".old.new")
    try:
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8", newline="\n")
        listed = {name: _hash(text.encode()) for name, text in sorted(texts.items())}
        (new / LIST).write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
        new.chmod(0o755)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="student", help="the folder (default: student)")
    folder = Path(parser.parse_args(arguments).out)
    try:
        texts = files()
        put(folder, texts)
    except (ValueError, OSError) as error:
        print(f"make student: {error}", file=sys.stderr)
        return 1
    count = sum(name.endswith(".ipynb") for name in texts)
    print(f"{folder}: {count} notebooks without outputs and answers, README.md, requirements.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
