"""Reads a completed notebook: which statements belong to which exercise's answer. Runs nothing.

Stored outputs are never looked at. Of the code only what an answer needs is taken: the last binding of the name that
the exercise asks for, and, going backwards, whatever binds the names that it uses.
"""

from __future__ import annotations

import ast
import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from attn_course.exercises import catalog
from attn_course.exercises.task import Task

MOST_BYTES = 20 << 20
MOST_CELLS = 5000
MOST_CODE = 2_000_000
_MAGIC = re.compile(r"^\s*(%|!|\?)|^\s*[\w.]+\s*=\s*[%!]|\?\s*$")
_PYTHON_CELL = re.compile(r"%%(time|timeit|capture|prun)\b")
_MARKER = re.compile(r"^#\s*%%(.*)$")


class Refused(ValueError):
    """A file that is no notebook that can be graded."""


@dataclass
class Submission:
    """What a notebook holds: its code cells, and what was left out of them."""

    path: Path
    cells: list[str]
    remarks: list[str] = field(default_factory=list)
    statements: list[tuple[str, ast.stmt]] = field(default_factory=list)  # source text and tree, in order

    def bound(self) -> set[str]:
        """Every name that some statement binds."""
        return set().union(*(_binds(tree) for _, tree in self.statements))

    def tasks(self, chapter: int | None = None) -> list[Task]:
        """The exercises that this notebook is about: of its chapters, by what it checks, else by what it defines."""
        every = [exercise.task for exercise in catalog()]
        if chapter is not None:
            return [task for task in every if task.chapter == chapter]
        named = set(re.findall(r"\bget\(\s*[\"']([\w-]+)[\"']\s*\)", "\n".join(self.cells)))
        chapters = {task.chapter for task in every if task.id in named}
        if chapters:
            return [task for task in every if task.chapter in chapters]
        bound = self.bound()
        return [task for task in every if task.name in bound]

    def answer(self, task: Task) -> list[str] | None:
        """The statements that make the answer to ``task``, in order; None where its name is never bound."""
        wanted = {task.name}
        taken: set[int] = set()
        last = next(
            (i for i, (_, tree) in reversed(list(enumerate(self.statements))) if task.name in _binds(tree)),
            None,
        )
        if last is None:
            return None
        # A helper may stand below the answer, if nothing above has its name: when the answer is called, it is there.
        above = set().union(*(_binds(tree) for _, tree in self.statements[: last + 1]))
        functions = {tree.name: tree for _, tree in self.statements if isinstance(tree, ast.FunctionDef)}
        size = -1
        while size != len(taken):
            size = len(taken)
            for i, (_, tree) in reversed(list(enumerate(self.statements))):
                names = (_binds(tree) | (_changes(tree, functions) if i <= last else set())) & wanted
                if i not in taken and ((names or _binds_all(tree)) if i <= last else names - above):
                    wanted |= _uses(tree)
                    taken.add(i)
        return [self.statements[i][0] for i in sorted(taken)]


def read(path: Path) -> Submission:
    """A notebook from an ``.ipynb`` or a ``.py`` file (cells that begin with ``# %%``).

    Raises:
        Refused: a link, a folder, something not a plain file, too large, or not a notebook.
    """
    text = _text(path)
    cells = _from_json(text) if path.suffix == ".ipynb" else _from_percent(text)
    if len(cells) > MOST_CELLS:
        raise Refused(f"{len(cells):,} code cells, at most {MOST_CELLS:,}")
    if sum(map(len, cells)) > MOST_CODE:
        raise Refused(f"{sum(map(len, cells)):,} characters of code, at most {MOST_CODE:,}")
    submission = Submission(path, cells)
    for number, source in enumerate(cells, 1):
        _parse(submission, number, source)
    return submission


def _text(path: Path) -> str:
    """The file's text, if it is a plain file of a fair size and no link."""
    if path.suffix not in (".ipynb", ".py"):
        raise Refused(f"{path.suffix or 'no suffix'}: expected .ipynb or .py")
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        link = path.is_symlink()
        raise Refused("a symbolic link: not followed" if link else error.strerror or str(error)) from None
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise Refused("not a plain file")
        if about.st_size > MOST_BYTES:
            raise Refused(f"{about.st_size:,} bytes, at most {MOST_BYTES:,}")
        data = file.read(MOST_BYTES + 1)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refused("not UTF-8 text") from None


def _from_json(text: str) -> list[str]:
    try:
        notebook = json.loads(text)
        if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
            raise Refused("JSON, but no notebook of version 4: it has no list of cells")
        cells = []
        for cell in notebook["cells"]:
            if isinstance(cell, dict) and cell.get("cell_type") == "code":
                source = cell.get("source", "")
                parts = source if isinstance(source, list) else [source]
                if not all(isinstance(part, str) for part in parts):
                    raise Refused("a code cell whose source is no text")
                cells.append("".join(parts))
        return cells
    except RecursionError:
        raise Refused("JSON nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Refused(f"not JSON: {error}") from None


def _from_percent(text: str) -> list[str]:
    cells: list[list[str]] = [[]]
    kinds = ["code"]
    for line in re.split(r"\r\n?|\n", text):
        marker = _MARKER.match(line)
        if marker:
            kinds.append("markdown" if re.search(r"\[(markdown|md|raw)\]", marker[1]) else "code")
            cells.append([])
        else:
            cells[-1].append(line)
    code = ["\n".join(lines) for kind, lines in zip(kinds, cells, strict=True) if kind == "code"]
    return code if code[0].strip() else code[1:]  # what stands before the first marker


def _parse(submission: Submission, number: int, source: str) -> None:
    """Add a cell's statements, without the lines that only IPython understands."""
    source = re.sub(r"\r\n?", "\n", source.lstrip("\ufeff"))  # the ends of lines, as Python counts them
    lines = source.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    if lines[first].startswith("%%"):
        if not _PYTHON_CELL.match(lines[first]):
            submission.remarks.append(f"code cell {number}: left out, {lines[first].strip()[:40]}")
            return
        lines[first] = ""  # the cell below it is plain Python
        source = "\n".join(lines)
    try:
        tree = _tree(source)
    except SyntaxError:
        kept = ["" if _MAGIC.search(line) else line for line in lines]
        dropped = sum(a != b for a, b in zip(kept, lines, strict=True))
        source = "\n".join(kept)
        try:
            tree = _tree(source)
        except SyntaxError as error:
            submission.remarks.append(f"code cell {number}: left out, line {error.lineno}: {error.msg}")
            return
        submission.remarks.append(f"code cell {number}: {dropped} lines for IPython left out")
    for statement in tree.body:
        first = statement.lineno
        if (
            isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and statement.decorator_list
        ):
            first = min(decorator.lineno for decorator in statement.decorator_list)
        text = source.split("\n")[first - 1 : statement.end_lineno]
        text[-1] = text[-1].encode()[: statement.end_col_offset].decode() if text else ""
        if first == statement.lineno:
            text[0] = text[0].encode()[statement.col_offset :].decode()
        submission.statements.append(("\n".join(text), statement))


def _tree(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte; thousands of brackets
        raise SyntaxError(str(error) or "nested too deeply") from None


def _binds(tree: ast.stmt) -> set[str]:
    """The names that a statement at the top gives something to (also ``name.attribute = …``)."""
    found: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            continue  # what is inside binds names of its own
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            found.add(node.id)
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            found |= _base(node)
        if isinstance(node, ast.MatchAs | ast.MatchStar | ast.ExceptHandler) and node.name:
            found.add(node.name)
        todo.extend(ast.iter_child_nodes(node))
    return found


def _base(node: ast.expr) -> set[str]:
    """``a`` of ``a.b[c].d``."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _changes(tree: ast.stmt, functions: dict[str, ast.FunctionDef]) -> set[str]:
    """The names whose objects a call on a line of its own may change: of ``rows.append(1)``, and of ``fill()``."""
    found: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Attribute):
                found |= _base(called)
            elif isinstance(called, ast.Name) and called.id in functions:
                found |= _reaches_out(functions[called.id])
        todo.extend(ast.iter_child_nodes(node))
    return found


def _reaches_out(function: ast.FunctionDef) -> set[str]:
    """The names outside itself that a function gives something to, or whose objects it may change."""
    declared: set[str] = set()
    own = {argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)}
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Global):
            declared |= set(node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            found |= _base(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found |= _base(node.func)
    return found - own | declared


def _binds_all(tree: ast.stmt) -> bool:
    """Whether this is ``from … import *``."""
    return isinstance(tree, ast.ImportFrom) and any(alias.name == "*" for alias in tree.names)


def _uses(tree: ast.stmt) -> set[str]:
    """Every name that a statement reads, at any depth."""
    return {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
