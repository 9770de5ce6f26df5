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
import symtable
import textwrap
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from attn_course.exercises import catalog
from attn_course.exercises.task import Task

SUFFIXES = (".ipynb", ".py")
MOST_BYTES = 20 << 20
MOST_CELLS = 5000
MOST_CODE = 2_000_000
MOST_STATEMENTS = 20_000
_MOST_MAGICS = 50  # lines for IPython in a cell, each of which takes one more look at the cell
_MOST_WITH_MAGICS = 20_000  # characters of such a cell
_MAGIC = re.compile(r"^\s*(%|!|\?)|^\s*[\w.]+\s*=\s*[%!]|\?\s*$")
_TIMED = re.compile(r"^(\s*)%time\s+(.*)$")
_PYTHON_CELL = re.compile(r"%%(time|timeit|capture|prun)\b")
_MARKER = re.compile(r"^#\s*%%(.*)$")


class Refused(ValueError):
    """A file that is no notebook that can be graded."""


@dataclass(frozen=True)
class Statement:
    """A statement at the top of a cell: its text, its tree, and the names that it gives something to."""

    text: str
    tree: ast.stmt
    binds: frozenset[str]


@dataclass
class Submission:
    """What a notebook holds: its code cells, its statements in order, and what was left out."""

    path: Path
    cells: list[str]
    remarks: list[str] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)

    def tasks(self, chapter: int | None = None) -> list[Task]:
        """The exercises that this notebook is about: of its chapters, by what it checks, else by what it defines."""
        every = [exercise.task for exercise in catalog()]
        if chapter is not None:
            return [task for task in every if task.chapter == chapter]
        named = set(re.findall(r"\bget\(\s*[\"']([\w-]+)[\"']\s*\)", "\n".join(self.cells)))
        chapters = {task.chapter for task in every if task.id in named}
        if chapters:
            return [task for task in every if task.chapter in chapters]
        return [task for task in every if task.name in self._binders]

    def answer(self, task: Task) -> list[str] | None:
        """The statements that make the answer to ``task``, in order; None where its name is never bound."""
        if task.name not in self._binders:
            return None
        last = self._binders[task.name][-1]
        taken: set[int] = set()
        wanted: set[str] = set()
        todo = [task.name]

        def take(i: int) -> None:
            if i not in taken:
                taken.add(i)
                todo.extend(_uses(self.statements[i]))

        for i in self._always:
            if i <= last:
                take(i)
        while todo:
            name = todo.pop()
            if name in wanted:
                continue
            wanted.add(name)
            binders = self._binders.get(name, [])
            for i in binders:
                # A helper may stand below the answer, if nothing above has its name: when it is called, it is there.
                if i <= last or binders[0] > last:
                    take(i)
            if name != task.name:  # what is done with the answer itself is no part of it
                for i in self._changers.get(name, []):
                    if i <= last:
                        take(i)
        return [self.statements[i].text for i in sorted(taken)]

    @cached_property
    def _binders(self) -> dict[str, list[int]]:
        """Name -> the statements that bind it, in order."""
        return _by_name(statement.binds for statement in self.statements)

    @cached_property
    def _changers(self) -> dict[str, list[int]]:
        """Name -> the statements that may change what it stands for, in order."""
        trees = [statement.tree for statement in self.statements]
        fixed = {name for name, places in self._binders.items() if all(_is_fixed(trees[i]) for i in places)}
        reach = {tree.name: _reaches_out(tree, fixed) for tree in trees if isinstance(tree, ast.FunctionDef)}
        return _by_name(_changes(tree, reach, fixed) for tree in trees)

    @cached_property
    def _always(self) -> list[int]:
        """``from … import *`` and ``from __future__ import …``: they bind what no name tells."""
        trees = [statement.tree for statement in self.statements]
        return [
            i
            for i, tree in enumerate(trees)
            if isinstance(tree, ast.ImportFrom)
            and (tree.module == "__future__" or any(alias.name == "*" for alias in tree.names))
        ]


def _by_name(found: Iterable[Collection[str]]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for i, names in enumerate(found):
        for name in names:
            places.setdefault(name, []).append(i)
    return places


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
    if path.is_dir() and not path.is_symlink():
        readable = os.access(path, os.R_OK | os.X_OK)
        raise Refused("no .ipynb or .py file in it" if readable else "a folder that cannot be read")
    if path.suffix not in SUFFIXES and not path.is_symlink():
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
    except ValueError as error:  # also a number of 5,000 digits
        raise error if isinstance(error, Refused) else Refused(f"not JSON: {error}") from None


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
    elif lines[first][:1] in (" ", "\t"):  # a cell may be indented as a whole
        lines = textwrap.dedent(source).split("\n")
    dropped = 0
    while True:
        try:
            tree = _tree("\n".join(lines))
            break
        except SyntaxError as error:
            # Only the line that Python stumbles over: "%", "!" and "?" have their places in Python, too.
            at = (error.lineno or 0) - 1
            may = dropped < _MOST_MAGICS and len(source) <= _MOST_WITH_MAGICS
            if not may and dropped < len(lines):  # one look more, without the lines that begin as magics do
                kept = ["pass" if line.startswith(("%", "!")) else line for line in lines]
                dropped, lines = dropped + len(lines), kept
                continue
            if not may or not 0 <= at < len(lines) or not _MAGIC.search(lines[at]):
                submission.remarks.append(f"code cell {number}: left out, line {error.lineno}: {error.msg}")
                return
            timed = _TIMED.match(lines[at])
            lines[at] = timed[1] + timed[2] if timed else lines[at][: -len(lines[at].lstrip())] + "pass"
            dropped += 1
    if dropped:
        submission.remarks.append(f"code cell {number}: lines for IPython left out")
    if len(submission.statements) + len(tree.body) > MOST_STATEMENTS:
        raise Refused(f"more than {MOST_STATEMENTS:,} statements")
    for statement in tree.body:
        first = statement.lineno
        if (
            isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and statement.decorator_list
        ):
            first = min(decorator.lineno for decorator in statement.decorator_list)
            while first > 1 and not lines[first - 1].lstrip().startswith("@"):  # a decorator in brackets
                first -= 1
        text = lines[first - 1 : statement.end_lineno]
        text[-1] = text[-1].encode()[: statement.end_col_offset].decode() if text else ""
        if first == statement.lineno:
            text[0] = text[0].encode()[statement.col_offset :].decode()
        submission.statements.append(Statement("\n".join(text), statement, frozenset(_binds(statement))))


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
        if isinstance(node, ast.comprehension):  # its variable, too
            todo += [node.iter, *node.ifs]
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            found |= _base(node)
        if isinstance(node, ast.MatchAs | ast.MatchStar | ast.ExceptHandler) and node.name:
            found.add(node.name)
        todo.extend(ast.iter_child_nodes(node))
    return found


def _base(node: ast.expr) -> set[str]:
    """``a`` of ``a.b[c].d()``."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _is_fixed(tree: ast.stmt) -> bool:
    """Whether what a statement binds is changed by no call: a module, a function, a number."""
    if isinstance(tree, ast.Try):
        return all(
            _is_fixed(one) for one in [*tree.body, *(s for h in tree.handlers for s in h.body), *tree.orelse]
        )
    if isinstance(tree, ast.Assign | ast.AnnAssign):
        return isinstance(tree.value, ast.Constant | ast.UnaryOp)
    return isinstance(tree, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.Expr | ast.Pass)


def _changes(tree: ast.stmt, reach: dict[str, set[str]], fixed: set[str]) -> set[str]:
    """The names whose objects a statement may change without binding them.

    A call on a line of its own: ``rows.append(1)``, ``nn.init.zeros_(table)``, ``fill()``; and a decorator.

    Args:
        reach: function -> the names outside itself that it may change.
        fixed: the names whose objects no call changes.
    """
    found: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        called: list[ast.expr] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            called = [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]
        elif isinstance(node, ast.Lambda):
            continue
        else:
            todo.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = [node.value.func]
            found |= set().union(*(_base(argument) for argument in node.value.args)) - fixed
            if isinstance(node.value.func, ast.Attribute):
                found |= _base(node.value.func) - fixed
        for function in called:
            if isinstance(function, ast.Name):
                found |= reach.get(function.id, set())
    return found


def _reaches_out(function: ast.FunctionDef, fixed: set[str]) -> set[str]:
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
    return found - own - fixed | declared


def _uses(statement: Statement) -> set[str]:
    """The notebook's names that a statement reads, at any depth; not what a function calls so for itself."""
    try:
        top = symtable.symtable(statement.text, "submission", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # `await` at the top, for one
        names = (node for node in ast.walk(statement.tree) if isinstance(node, ast.Name))
        return {node.id for node in names if isinstance(node.ctx, ast.Load)}
    found = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    todo = top.get_children()
    while todo:
        scope = todo.pop()
        todo += scope.get_children()
        found |= {symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global()}
    return found
