"""Checks notebooks and grades folders of them: one row for each exercise, kept as soon as it is there."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import secrets
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from attn_course import __version__
from attn_course.exercises import catalog, get
from attn_course.exercises.judge import answer, judge
from attn_course.exercises.task import Task

from .sandbox import Allowance, Outcome, Sandbox
from .submission import SUFFIXES, Refused, Submission, read

STATUSES = ("passed", "wrong", "not attempted", "missing", "error", "stopped", "forged", "refused")
_STOPPED = {
    "time": "Given up: it took longer than {seconds:g} s.",
    "killed": "Its process was killed: it took more than the {gib:g} GiB of memory or the {seconds:g} s of "
    "processor time that it may, or it ended itself.",
    "crashed": "Its process crashed, as one does that recurses too deep in compiled code or reads where nothing is.",
    "output": "Given up: its report was too large.",
    "died": "Its process ended before the check did. {message}",
}


@dataclass(frozen=True)
class Row:
    """What is known of one exercise of one submission. ``points``: 1 if passed, else 0."""

    student: str
    file: str
    chapter: int
    exercise: str
    status: str
    points: int
    diagnosis: str
    message: str
    seed: int
    sha256: str
    course: str


COLUMNS = tuple(field.name for field in fields(Row))


def check_file(
    path: Path, sandbox: Sandbox, seed: int, *, name: str = "", student: str = "", chapter: int | None = None,
    exercises: Collection[str] = (), also: Collection[str] = (),
) -> list[Row]:  # fmt: skip
    """Every exercise of one notebook (of ``exercises``, if given; and those in ``also``), judged.

    A file that is refused gives one row that says why.
    """
    about: dict[str, Any] = {
        "student": student,
        "file": name or _printable(str(path)),
        "seed": seed,
        "sha256": _sha256(path),
        "course": __version__,
    }
    try:
        submission = read(path)
        tasks = _wanted(submission, chapter, exercises, also)
        if not tasks:
            asked = f"none of {', '.join(exercises)}" if exercises else "no exercise of the course"
            raise Refused(f"{asked} in it: it checks none and defines none")
    except Exception as error:  # Refused, or something in the file that nobody foresaw: the others go on
        told = (
            str(error) if isinstance(error, Refused) else f"cannot be read: {type(error).__name__}: {error}"
        )
        nothing: dict[str, Any] = {"chapter": 0, "exercise": "", "points": 0, "diagnosis": ""}
        return [Row(**about, **nothing, status="refused", message=_one_line(told))]
    rows = []
    sandbox.fresh()
    spent = time.monotonic()
    for task in tasks:
        # A submission that stops the clock in every exercise does not hold the others up for long.
        late = time.monotonic() - spent > 3 * sandbox.allowance.seconds
        found = (
            ("stopped", "", "Given up: the notebook took too long altogether.")
            if late
            else _judged(submission, task, sandbox, seed)
        )
        status, diagnosis, message = found
        rows.append(Row(**about, chapter=task.chapter, exercise=task.id, status=status, points=int(status == "passed"),
                        diagnosis=diagnosis, message=_one_line(message)))  # fmt: skip
    return rows


def _wanted(
    submission: Submission, chapter: int | None, exercises: Collection[str], also: Collection[str] = ()
) -> list[Task]:
    asked = {task.id for task in submission.tasks(chapter) if not exercises or task.id in exercises}
    return [exercise.task for exercise in catalog() if exercise.id in asked | {*also}]


def _judged(submission: Submission, task: Task, sandbox: Sandbox, seed: int) -> tuple[str, str, str]:
    """Status, diagnosis and message of one exercise."""
    try:
        statements = submission.answer(task)
    except Exception as error:
        return "error", "", f"Its code could not be taken apart: {type(error).__name__}: {error}"
    remarks = f" ({'; '.join(submission.remarks[:3])})" if submission.remarks else ""
    if statements is None:
        return "missing", "", f"`{task.name}` is nowhere defined{remarks}."
    status, diagnosis, message = verdict(
        task, sandbox.observe(task, statements, seed), seed, sandbox.allowance
    )
    return status, diagnosis, message + (remarks if status not in ("passed", "not attempted") else "")


def verdict(task: Task, outcome: Outcome, seed: int, allowance: Allowance) -> tuple[str, str, str]:
    """What an outcome is worth. The judge runs here, on plain data alone."""
    if outcome.stopped == "forged":
        return "forged", "", f"Its report is none of ours: {outcome.message}"
    if outcome.report is None:
        words = {"seconds": allowance.seconds, "gib": allowance.bytes / 2**30, "message": outcome.message}
        return "stopped", "", _STOPPED.get(outcome.stopped, _STOPPED["died"]).format(**words).strip()
    report = outcome.report
    fault = next((seen.fault for seen in report.observations[:1] if seen.case == "definition"), None)
    if fault is not None:
        report = replace(report, observations=report.observations[1:])
    if report.candidate == "none" and fault:
        return "error", "", f"`{task.name}` could not be defined: {fault.type}: {fault.text}"
    if report.candidate == "none":
        return "not attempted", "", ""
    try:
        found = judge(task, report, seed)
    except Exception as error:  # a forged report may hold what no judge foresees
        return "forged", "", f"Its report cannot be judged: {type(error).__name__}"
    if found.passed is None:
        return "not attempted", "", ""
    if found.passed:
        return "passed", "", ""
    before = (
        f" (Before it was called: {fault.type}: {fault.text})"
        if fault and found.diagnosis == "raises"
        else ""
    )
    return "wrong", found.diagnosis or "", found.message + before


# ------------------------------------------------------------------------------------------- a folder of them


@dataclass(frozen=True)
class Found:
    """A file in a folder of submissions: whose it is, and where."""

    student: str
    name: str
    path: Path


def submissions(folder: Path) -> list[Found]:
    """What is in a folder, one student's in a folder of their own or all side by side.

    The student is the folder directly below ``folder``, or the file's name. Hidden files are left out. Links, other
    files at the top and folders without a notebook are listed, to be refused later; links are never followed.

    Raises:
        ValueError: there is no such folder, or nothing to grade in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    found = []
    for entry in _entries(folder):
        path = Path(entry.path)
        notebooks = list(_walk(path, 3)) if entry.is_dir(follow_symlinks=False) else []
        student = _printable(entry.name if entry.is_dir() else path.stem)
        for one in notebooks or [path]:
            found.append(Found(student, _printable(one.relative_to(folder).as_posix()), one))
    if not any(one.path.suffix in SUFFIXES for one in found):
        raise ValueError(f"no .ipynb or .py file in {folder}")
    return sorted(found, key=lambda one: (one.student, one.name))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda one: one.name)
    return [entry for entry in entries if not entry.name.startswith((".", "__"))]


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = _entries(folder)
    except PermissionError:
        yield folder  # to be refused, so that it is seen
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if depth:
                yield from _walk(Path(entry.path), depth - 1)
        elif entry.name.endswith(SUFFIXES):
            yield Path(entry.path)


def grade(
    folder: Path, out: Path, *, chapter: int | None = None, exercises: Collection[str] = (), seed: int | None = None,
    allowance: Allowance | None = None, again: Collection[str] = (), forget: bool = False, weak: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:  # fmt: skip
    """Grade a folder into a CSV file; what is there already and has not changed stays as it is.

    The rows of a notebook are written together as soon as they are there. The seed of the cases is drawn anew for
    a new file and kept for its sake, so that all are asked the same. What has one of the statuses or diagnoses
    ``again`` is graded once more. Files that are no longer in the folder keep their rows, unless ``forget``; a file
    that has changed is asked what it was asked before, besides what is asked now.

    Raises:
        ValueError: the folder holds nothing, or ``out`` is no file of grades, or of another seed.
        BlockingIOError: another run writes to ``out``.
        SandboxError: this machine cannot lock a submission in, and ``weak`` was not given.
    """
    found = submissions(folder)
    with _locked(out):
        kept = load(out) if out.exists() and out.stat().st_size else []
        if kept and seed is not None and kept[0].seed != seed:
            raise ValueError(f"{out} was graded with seed {kept[0].seed}, not {seed}: take another file")
        seed = kept[0].seed if kept else secrets.randbelow(1 << 31) if seed is None else seed
        found = [one for one in found if not _is_output(one.path, out)]
        keyed = [(one, (one.name, _sha256(one.path))) for one in found]
        current, names = {key for _, key in keyed}, {one.name for one in found}
        gone = [row for row in kept if row.file not in names]
        if gone and not forget:
            count = len({row.file for row in gone})
            say(
                f"{count} {'file' if count == 1 else 'files'} of {out} not in {folder}: kept (--forget drops them)"
            )
        stays = [row for row in kept if (row.file, row.sha256) in current and row.course == __version__]
        redo = {row.file for row in stays if {row.status, row.diagnosis} & {*again}}
        redo |= {one.name for one in found if _lacks(one, stays, chapter, exercises)}
        stays = [row for row in stays if row.file not in redo] + ([] if forget else gone)
        done = {(row.file, row.sha256) for row in stays}
        _rewrite(out, stays)
        rows = list(stays)
        todo = [one for one, key in keyed if key not in done]
        if not todo:
            return rows
        with Sandbox(allowance, weak=weak) as sandbox, out.open("ab") as file:
            for number, one in enumerate(todo, 1):
                also = {row.exercise for row in kept if row.file == one.name and row.exercise}
                new = check_file(
                    one.path, sandbox, seed, name=one.name, student=one.student, chapter=chapter, exercises=exercises,
                    also=also,
                )  # fmt: skip
                file.write(_csv(new))
                file.flush()
                os.fsync(file.fileno())
                rows += new
                say(f"{number} of {len(todo)}: {one.name}: {_tally(new)}")
    return rows


def _is_output(path: Path, out: Path) -> bool:
    """Whether it is what an earlier run wrote into the folder itself."""
    return path.absolute() in {one.absolute() for one in (out, out.with_suffix(".md"), by_student(out))}


def _lacks(one: Found, rows: list[Row], chapter: int | None, exercises: Collection[str]) -> bool:
    """Whether exercises that are asked for now are not among the rows of a file that has some."""
    mine = {row.exercise for row in rows if row.file == one.name}
    if not mine or "" in mine:  # none yet; or refused, whatever is asked
        return False
    try:
        return not {task.id for task in _wanted(read(one.path), chapter, exercises)} <= mine
    except Exception:
        return True


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Nobody else writes to ``out`` meanwhile."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f".{out.name}.lock")
    with lock.open("w") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BlockingIOError(f"another run writes to {out}") from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def load(path: Path) -> list[Row]:
    """The rows of a file of grades; what an interrupted run left half written is left out.

    Raises:
        ValueError: it is something else.
    """
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1].decode("utf-8", "replace")
    lines = list(csv.reader(io.StringIO(whole)))
    if not lines or tuple(lines[0]) != COLUMNS:
        raise ValueError(f"{path} is no file of grades: it does not begin with {','.join(COLUMNS)}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(COLUMNS):
            raise ValueError(f"{path}, line {number}: {len(line)} columns, expected {len(COLUMNS)}")
        values: dict[str, Any] = dict(zip(COLUMNS, map(_bare, line), strict=True))
        try:
            for name in ("chapter", "points", "seed"):
                values[name] = int(values[name])
        except ValueError:
            raise ValueError(f"{path}, line {number}: {name} is {values[name]!r}, not a number") from None
        rows.append(Row(**values))
    # A notebook's rows are written at once; if the machine stopped within, its exercises are not all there.
    last = [row for row in rows if rows and (row.file, row.sha256) == (rows[-1].file, rows[-1].sha256)]
    if not data.endswith(b"\n"):
        rows = [row for row in rows if row not in last]
    return rows


def diagnoses(path: Path) -> list[str]:
    """The diagnoses in a file of grades; none where there is no file."""
    return sorted({row.diagnosis for row in load(path)} - {""}) if path.exists() else []


def _rewrite(out: Path, rows: list[Row]) -> None:
    """The head and these rows, put in place whole."""
    new = out.with_name(f".{out.name}.new")
    new.write_bytes((",".join(COLUMNS) + "\r\n").encode() + _csv(rows))
    os.replace(new, out)


def _csv(rows: Iterable[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    for row in rows:
        writer.writerow([_safe(value) for value in asdict(row).values()])
    return text.getvalue().encode("utf-8", "replace")


def _safe(value: Any) -> Any:
    """A text that no spreadsheet takes for a formula."""
    return (
        f"'{value}"
        if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r", "'")
        else value
    )


def _bare(value: str) -> str:
    return value[1:] if value[:1] == "'" and value[1:2] in ("=", "+", "-", "@", "\t", "\r", "'") else value


def _one_line(message: str) -> str:
    words = " ".join(message.split())
    return _printable(words if len(words) <= 1000 else f"{words[:998]} …")


def _printable(text: str) -> str:
    """A text that moves no cursor and colours no terminal: what cannot be printed is written as its code."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _markdown(text: str) -> str:
    """A text that means nothing in Markdown but itself."""
    return re.sub(r"([\\`*_\[\]<>|#!&])", r"\\\1", text)


def _sha256(path: Path) -> str:
    """Of a plain file that is not too large; a link is not followed."""
    try:
        about = os.lstat(path)
        if not stat.S_ISREG(about.st_mode) or about.st_size > 1 << 28:
            return "none"
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "none"


# ------------------------------------------------------------------------------------------------- what is told


def _tally(rows: list[Row]) -> str:
    counts = Counter(row.status for row in rows)
    return ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])


def table(rows: list[Row]) -> str:
    """A notebook's exercises as text: which passed, and which mistake the others make."""
    lines = []
    width = max((len(row.exercise) for row in rows), default=0)
    for row in rows:
        mark = {"passed": "✓", "not attempted": "○", "missing": "○"}.get(row.status, "✗")
        told = f" [{row.diagnosis}]" if row.diagnosis else ""
        lines.append(f"{mark} {row.exercise or row.file:{width}}  {row.status}{told}")
        if row.message and row.status != "passed":
            lines.append(f"  {'':{width}}  {row.message}")
    return "\n".join([*lines, _tally(rows)])


def as_json(rows: list[Row]) -> str:
    """The same as JSON: a list of objects, one an exercise."""
    return json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False)


def mistakes(exercise: str) -> list[tuple[str, str]]:
    """The mistakes that the checker of an exercise knows: id, and what it tells the learner."""
    return [(mistake.id, mistake.says) for mistake in answer(get(exercise).task).mistakes]


def by_student(out: Path) -> Path:
    """Where the points of each student stand, beside the rows."""
    return out.with_name(f"{out.stem}-students.csv")


def points(rows: list[Row]) -> str:
    """A line for each student, as CSV: how many passed, of how many, and each exercise (empty: not handed in)."""
    best, order = _best(rows), _asked(rows)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["student", "points", "of", *order])
    for student in sorted({row.student for row in rows}):
        mine = [best.get((student, exercise)) for exercise in order]
        each = [row.points if row else "" for row in mine]
        writer.writerow([_safe(student), sum(row.points for row in mine if row), len(order), *each])
    return text.getvalue()


def _best(rows: list[Row]) -> dict[tuple[str, str], Row]:
    """(Student, exercise) -> the best row, of a student's several files."""
    best: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.exercise and row.points >= getattr(best.get((row.student, row.exercise)), "points", 0):
            best[row.student, row.exercise] = row
    return best


def _asked(rows: list[Row]) -> list[str]:
    """The exercises that anybody's rows name, in the order of the course."""
    named = {row.exercise for row in rows}
    return [exercise.id for exercise in catalog() if exercise.id in named]


def summary(rows: list[Row]) -> str:
    """A class at a glance, as Markdown: how many passed each exercise, and which mistakes are common.

    Every student counts for every exercise that somebody handed in.
    """
    students, best, asked = sorted({row.student for row in rows}), _best(rows), _asked(rows)
    lines = [f"# Grades of {len(students)} {'student' if len(students) == 1 else 'students'}", ""]
    lines += [
        "| exercise | passed | wrong | not attempted | not handed in | other | most common mistakes |",
        "|---|---|---|---|---|---|---|",
    ]
    for exercise in asked:
        mine = [best[student, exercise] for student in students if (student, exercise) in best]
        counts = Counter(row.status for row in mine)
        idle = counts["not attempted"] + counts["missing"]
        other = len(mine) - counts["passed"] - counts["wrong"] - idle
        common = Counter(row.diagnosis for row in mine if row.diagnosis).most_common(3)
        told = ", ".join(f"{name} ({count})" for name, count in common)
        lines.append(
            f"| {exercise} | {counts['passed']} of {len(students)} | {counts['wrong']} | {idle} | "
            f"{len(students) - len(mine)} | {other} | {told} |"
        )
    lines += ["", "| student | passed |", "|---|---|"]
    for student in students:
        passed = sum(row.points for row in best.values() if row.student == student)
        lines.append(f"| {_markdown(student)} | {passed} of {len(asked)} |")
    refused = [row for row in rows if row.status in ("refused", "forged")]
    if refused:
        lines += ["", "Files to look at:", ""]
        for row in refused:
            what = ", ".join(name for name in (_markdown(row.file), row.exercise) if name)
            lines.append(f"- {what}: {row.status}: {_markdown(row.message)}")
    return "\n".join(lines) + "\n"
