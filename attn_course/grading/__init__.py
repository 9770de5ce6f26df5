"""Completed notebooks, graded: somebody else's code runs in a locked process, and is judged outside of it.

==================  ==================================================================  ====================
file                what it does                                                        inside the sandbox
==================  ==================================================================  ====================
``submission.py``   reads a notebook: which statements belong to which answer           no
``sandbox.py``      makes the sandbox's folder, starts it, sends jobs, reads bytes      no
``inmate.py``       takes jobs, forks, runs an answer, writes its report                yes
``confine.py``      locks a process: Landlock, seccomp, limits                          yes
``wire.py``         a report as bytes and back, trusting nothing                        yes
``grade.py``        verdicts, rows, files of grades, summaries                          no
==================  ==================================================================  ====================

What it protects against, and what needs a container, is on the book's page about grading.
"""

from .grade import (
    STATUSES,
    Row,
    as_json,
    by_student,
    check_file,
    diagnoses,
    grade,
    load,
    mistakes,
    points,
    submissions,
    summary,
    table,
)
from .sandbox import Allowance, Sandbox, SandboxError, protections
from .submission import Refused, read

__all__ = [
    "STATUSES", "Allowance", "Refused", "Row", "Sandbox", "SandboxError", "as_json", "by_student", "check_file",
    "diagnoses", "grade", "load", "mistakes", "points", "protections", "read", "submissions", "summary", "table",
]  # fmt: skip
