"""Submissions that try to earn what they did not do, or to break the grader; honest ones beside them still pass."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from attn_course import grading
from attn_course.exercises import get, judge

CHECK = '\nget("causal-mask").check(causal_mask)\n'
HEAD = "import torch\nfrom attn_course.exercises import get\n"
RIGHT = HEAD + "def causal_mask(n):\n    return torch.ones(n, n).tril().bool()\n"
WRONG = "    return torch.zeros(n, n, dtype=torch.bool)\n"


def answer(body: str, before: str = "") -> str:
    """A submission whose causal_mask has this body."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"{HEAD}{before}\ndef causal_mask(n):\n{lines}{CHECK}"


def attempt(body: str) -> str:
    """Try something; only who succeeds gives the right answer."""
    tried = "".join(f"    {line}\n" for line in body.splitlines())
    return answer(
        f"won = False\ntry:\n{tried}    won = True\nexcept BaseException:\n    pass\n"
        "return torch.ones(n, n).tril().bool() if won else torch.zeros(n, n, dtype=torch.bool)"
    )


def lines(*text: str) -> str:
    return "\n".join(text)


FORGED_ZEROS = lines(
    "import numpy as np, attn_course.exercises.runner as r",
    "def fake(task, candidate, seed=0, limits=None):",
    "    seen = r.Seen('tensor', 'Tensor', 'bool', (3, 3), 'cpu', np.zeros((3, 3), bool))",
    "    made = [r.Observation(c.name, result=seen) for c in task.cases]",
    "    return r.Report('function', False, made)",
    "r.observe = fake",
)
TO_EVERY_PIPE = lines(
    "import os",
    "for handle in range(3, 64):",
    "    try:",
    "        os.write(handle, {bytes!r})",
    "    except OSError:",
    "        pass",
    "os._exit(0)",
)
SOCKET = "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=3)"
LISTED = lines(
    "import sys, pathlib",
    "found = [p for e in sys.path for p in pathlib.Path(e).rglob('*_answers.py')]",
    "assert found and found[0].read_text()",
)

# The attack -> the submission, and what it must come to. {…} is filled in with what the grader's own machine has.
ATTACKS: dict[str, tuple[str, set[str]]] = {
    "patched comparisons and asserts": (
        answer(
            WRONG.strip(),
            "torch.equal = torch.allclose = lambda *a, **k: True\ntorch.testing.assert_close = print\n",
        ),
        {"wrong"},
    ),
    "a result that equals everything": (
        answer(
            "return Yes()",
            "class Yes:\n    def __eq__(self, other): return True\n    def __bool__(self): return True\n",
        ),
        {"wrong"},
    ),
    "a tensor that lies about itself": (
        answer(
            "return torch.zeros(n, n, dtype=torch.bool).as_subclass(Liar)",
            "class Liar(torch.Tensor):\n    @classmethod\n"
            "    def __torch_function__(cls, f, t, a=(), k=None): return True\n"
            "    def numpy(self): import numpy; return numpy.tril(numpy.ones(self.shape, bool))\n",
        ),
        {"wrong"},
    ),
    "a replaced checker": (
        answer(
            WRONG.strip(),
            "import attn_course.exercises as e\nget = e.get = lambda name: e\ne.check = lambda *a: True\n",
        ),
        {"wrong"},
    ),
    "a replaced runner that reports zeros": (
        answer(WRONG.strip() + "\n" + "fake", FORGED_ZEROS + "\n"),
        {"wrong"},
    ),
    "a replaced runner that reports nothing": (
        answer(
            f"{WRONG.strip()}\nr",
            "import attn_course.exercises.runner as r\nr.observe = lambda *a, **k: r.Report('function')\n",
        ),
        {"wrong"},
    ),
    "a replaced serialiser": (
        answer(
            f"{WRONG.strip()}\nwire",
            "import wire\nwire.pack = lambda report: b'\\x00' * 7 + b'\\x02{}passed'\n",
        ),
        {"forged"},
    ),
    "junk in every pipe": (
        answer(TO_EVERY_PIPE.replace("{bytes!r}", repr(b'{"passed": true}\n' * 9))),
        {"forged"},
    ),
    "a report that says passed": (
        answer(TO_EVERY_PIPE.replace("{bytes!r}", repr((17).to_bytes(8, "big") + b'{"passed":  true}'))),
        {"forged"},
    ),
    "an answer for the grader's protocol": (
        answer(TO_EVERY_PIPE.replace("{bytes!r}", repr(b'{"stopped": "", "bytes": 0}\n'))),
        {"forged"},
    ),
    "an endless loop": (answer("while True:\n    pass"), {"wrong", "stopped"}),
    "an endless loop that catches everything": (
        answer("while True:\n    try:\n        while True: pass\n    except BaseException:\n        pass"),
        {"wrong", "stopped"},
    ),
    "an endless loop below Python": (answer("import itertools\nsum(itertools.repeat(0))"), {"stopped"}),
    "an endless loop while it is defined": (
        answer(WRONG.strip() + "\nspin", "spin = sum(iter(int, 1))\n"),
        {"stopped"},
    ),
    "a memory bomb": (
        answer("held = [bytearray(1 << 28) for _ in range(1000)]\n" + WRONG.strip()),
        {"wrong", "stopped"},
    ),
    "a memory bomb of tensors": (
        answer("held = [torch.ones(1 << 27) for _ in range(1000)]\n" + WRONG.strip()),
        {"wrong", "stopped"},
    ),
    "a gigantic result": (
        answer("return torch.zeros(1, dtype=torch.bool).expand(10 ** 6, 10 ** 6)"),
        {"wrong"},
    ),
    "a fork bomb": (attempt("import os\nwhile os.fork() >= 0:\n    pass"), {"wrong"}),
    "a daemon left behind": (
        attempt("import subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)"),
        {"wrong"},
    ),
    "a shell": (attempt("import os\nassert os.system('true') == 0"), {"wrong"}),
    "threads left behind": (
        answer(
            "import threading, time\nfor _ in range(20): threading.Thread(target=time.sleep, args=(1000,)).start()\n"
            + WRONG.strip()
        ),
        {"wrong", "stopped"},
    ),
    "threads without end": (
        answer(
            "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1000,)).start()"
        ),
        {"wrong", "stopped"},
    ),
    "sys.exit": (answer("import sys\nsys.exit(0)"), {"wrong"}),
    "os._exit": (answer("import os\nos._exit(0)"), {"stopped"}),
    "it kills itself": (answer("import signal\nsignal.raise_signal(signal.SIGKILL)"), {"stopped"}),
    "it ends by a signal without a name": (answer("import signal\nsignal.raise_signal(45)"), {"stopped"}),
    "it stops itself": (answer("import signal\nsignal.raise_signal(signal.SIGSTOP)"), {"stopped"}),
    "a crash": (answer("import ctypes\nctypes.string_at(0)"), {"stopped"}),
    "it kills the grader": (
        attempt("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)"),
        {"wrong"},
    ),
    "it kills its whole group": (attempt("import os, signal\nos.killpg(0, signal.SIGKILL)"), {"wrong"}),
    "it writes into the grades": (attempt("open({grades!r}, 'a').write('forged')"), {"wrong"}),
    "it writes into the home folder": (attempt("open({home!r} + '/written', 'w').write('x')"), {"wrong"}),
    "it writes where it stands": (attempt("open('written', 'w').write('x')"), {"wrong"}),
    "it fills the disk": (
        attempt(
            "import tempfile\nwith tempfile.TemporaryFile() as file:\n"
            "    file.write(b'x' * (1 << 20))\n    file.flush()"
        ),
        {"wrong"},
    ),
    "it fills memory by a file without a name": (
        attempt("import os\nheld = os.memfd_create('x')\nos.ftruncate(held, 1 << 33)"),
        {"wrong"},
    ),
    "it makes a symbolic link": (attempt("import os\nos.symlink('/etc/passwd', 'link')"), {"wrong"}),
    "it deletes": (attempt("import os\nos.remove({grades!r})"), {"wrong"}),
    "it opens the solutions": (attempt("assert 'tril' in open({answers!r}).read()"), {"wrong"}),
    "it imports the solutions": (
        attempt("from attn_course.exercises import chapter1_answers\nassert chapter1_answers.ANSWERS"),
        {"wrong"},
    ),
    "it imports the judge": (attempt("import attn_course.exercises.judge"), {"wrong"}),
    "it searches for the solutions": (attempt(LISTED), {"wrong"}),
    "it adds the repository to its path": (
        attempt(
            "import sys\nsys.path.insert(0, {root!r})\n"
            "for m in [m for m in sys.modules if m.startswith('attn')]: del sys.modules[m]\n"
            "import attn_course.exercises.chapter1_answers"
        ),
        {"wrong"},
    ),
    "it looks for a solution in memory": (
        attempt(
            "import gc\nassert [o for o in gc.get_objects() if type(o).__name__ in ('Answer', 'Mistake', 'Verdict')]"
        ),
        {"wrong"},
    ),
    "it reads the grader's memory": (
        attempt("import os\nopen(f'/proc/{{os.getppid()}}/mem', 'rb').read(1)"),
        {"wrong"},
    ),
    "it reads the grader's environment": (
        attempt("import os\nassert open(f'/proc/{{os.getppid()}}/environ', 'rb').read()"),
        {"wrong"},
    ),
    "the grader's environment leaks": (attempt("import os\nassert os.environ['ATTN_SECRET']"), {"wrong"}),
    "it reads other people's files": (attempt("assert open('/etc/passwd').read()"), {"wrong"}),
    "it lists the other submissions": (attempt("import os\nassert os.listdir({folder!r})"), {"wrong"}),
    "it connects to a server": (attempt(SOCKET), {"wrong"}),
    "it connects by a system call of its own": (
        attempt(
            "import ctypes\n"
            "assert ctypes.CDLL(None).syscall(41, 2, 1, 0) >= 0 or ctypes.CDLL(None).syscall(198, 2, 1, 0) >= 0"
        ),
        {"wrong"},
    ),
    "it asks for a name": (
        attempt("import socket\nsocket.getaddrinfo('localhost', 80)\nsocket.socket()"),
        {"wrong"},
    ),
    "it traces": (
        attempt("import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0"),
        {"wrong"},
    ),
    "it raises its limits": (
        attempt("import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))"),
        {"wrong"},
    ),
    "it floods its output": (
        answer(
            "import os\nfor _ in range(1000): print('passed ' * 10000); os.write(1, b'x' * 10000)\n"
            + WRONG.strip()
        ),
        {"wrong", "stopped"},
    ),
    "it floods the way back": (
        answer(
            "import os\nfor handle in range(3, 64):\n    try:\n"
            "        for _ in range(100): os.write(handle, b'x' * (1 << 20))\n    except OSError:\n        pass\n"
            "os._exit(0)"
        ),
        {"stopped"},
    ),
    "it holds the grader to one core": (
        attempt("import os\nos.sched_setaffinity(os.getppid(), {{0}})"),
        {"wrong"},
    ),
    "it has the kernel send the grader a signal": (
        attempt(
            "import fcntl, os\nread, write = os.pipe()\nfcntl.fcntl(read, fcntl.F_SETOWN, os.getppid())\n"
            "fcntl.fcntl(read, 10, 9)\n"
            "fcntl.fcntl(read, fcntl.F_SETFL, fcntl.fcntl(read, fcntl.F_GETFL) | os.O_ASYNC)\nos.write(write, b'x')"
        ),
        {"wrong"},
    ),
    "it takes away the right to read the other submissions": (
        attempt("import os\nos.chmod({folder!r}, 0)"),
        {"wrong"},
    ),
    "it takes away the right to read the sandbox": (
        attempt("import os, sys\nos.chmod(sys.path[0], 0)"),
        {"wrong"},
    ),
    "it changes the time of a file": (attempt("import os\nos.utime({grades!r}, (0, 0))"), {"wrong"}),
    "it leaves a note on a folder": (
        attempt("import os\nos.setxattr('.', 'user.note', b'for the next one')"),
        {"wrong"},
    ),
    "it changes the owner of a file": (attempt("import os\nos.chown({grades!r}, -1, -1)"), {"wrong"}),
    "it empties a file": (attempt("import os\nos.truncate({grades!r}, 0)"), {"wrong"}),
    "it empties a file as it opens it": (
        attempt("import os, torch\nos.open(torch.__file__, os.O_RDONLY | os.O_TRUNC)"),
        {"wrong"},
    ),
    "it watches the other submissions": (
        attempt("import ctypes\nassert ctypes.CDLL(None).inotify_init1(0) >= 0"),
        {"wrong"},
    ),
    "it takes a piece of shared memory": (
        attempt(
            "import ctypes\nlibc = ctypes.CDLL(None)\nassert any(libc.shmat(i, 0, 0) != -1 for i in range(99))"
        ),
        {"wrong"},
    ),
    "what it returns runs when it is unpacked": (
        answer(
            "return Bomb()",
            "class Bomb:\n    def __reduce__(self): import os; return (os.system, ('touch bombed',))\n",
        ),
        {"wrong"},
    ),
    "a module of its own beside it": (answer("return helper.mask(n)", "import helper\n"), {"wrong", "error"}),
    "it says that it passed": (
        HEAD + "print('causal-mask: passed')\ndef causal_mask(n):\n    ...  # your code here\n" + CHECK,
        {"not attempted"},
    ),
    "it breaks while it is defined": (
        HEAD + "@undefined\ndef causal_mask(n):\n    return 1\n" + CHECK,
        {"error"},
    ),
}

# The file's name -> its bytes, and what must be said. None of them holds an answer.
FILES: dict[str, tuple[bytes, str]] = {
    "malformed.ipynb": (b'{"cells": [', "not JSON"),
    "a-list.ipynb": (b"[1, 2]", "no list of cells"),
    "cells-of-nothing.ipynb": (b'{"cells": [1, null, {"cell_type": "code", "source": [1]}]}', "no text"),
    "deep.ipynb": (b"[" * 200_000, "deep"),
    "binary.ipynb": (bytes(range(256)) * 40, "not UTF-8"),
    "too-large.ipynb": (b" " * ((20 << 20) + 1), "at most"),
    "too-many-cells.ipynb": (
        json.dumps({"cells": [{"cell_type": "code", "source": "1"}] * 6000}).encode(),
        "6,000 code cells",
    ),
    "nothing-in-it.py": (b"x = 1\n", "no exercise"),
    "a-number-of-5000-digits.ipynb": (b'{"cells": [], "nbformat": ' + b"1" * 5000 + b"}", "not JSON"),
    "too-many-statements.py": (b"0\n" * 900_000, "20,000 statements"),
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory):
    """All of them in one folder with an honest one, graded by the command; what came of it."""
    base = tmp_path_factory.mktemp("attacked")
    folder, home, grades = base / "submissions", base / "home", base / "grades.csv"
    folder.mkdir()
    home.mkdir()
    (base / "tmp").mkdir()  # where the sandbox makes its folder
    heard: list[object] = []
    server = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        with contextlib.suppress(OSError):  # until it is closed
            while True:
                heard.append(server.accept())

    threading.Thread(target=listen, daemon=True).start()
    known = {
        "grades": str(grades), "home": str(home), "folder": str(folder), "port": server.getsockname()[1],
        "answers": str(Path(judge.__file__).with_name("chapter1_answers.py")),
        "root": str(Path(grading.__file__).parents[2]),
    }  # fmt: skip
    names = {}
    for number, (attack, (source, _)) in enumerate(ATTACKS.items()):
        names[attack] = f"attack-{number:02}.py"
        for name, value in known.items():
            source = source.replace("{" + name + "!r}", repr(value)).replace("{" + name + "}", str(value))
        (folder / names[attack]).write_text(source.replace("{{", "{").replace("}}", "}"))
    for name, (data, _) in FILES.items():
        (folder / name).write_bytes(data)
    for place in ("a-first.py", "zz-last.py"):
        (folder / place).write_text(RIGHT + CHECK)
    (folder / "helper.py").write_text("import torch\ndef mask(n): return torch.ones(n, n).tril().bool()\n")
    (folder / "link.py").symlink_to(folder / "a-first.py")
    (folder / "=cmd|calc.py").write_text(RIGHT + CHECK)
    os.mkfifo(folder / "pipe.ipynb")
    (base / "outside").mkdir()
    (base / "outside" / "hidden.py").write_text(RIGHT + CHECK)
    (folder / "linked-folder").symlink_to(base / "outside", target_is_directory=True)
    before = {path for path in base.rglob("*")}
    run = subprocess.run(
        [sys.executable, "-m", "attn_course.cli", "grade", str(folder), "--out", str(grades), "--seconds", "6"],
        capture_output=True, text=True, timeout=500,
        env={**os.environ, "HOME": str(home), "TMPDIR": str(base / "tmp"), "ATTN_SECRET": "tell nobody"},
    )  # fmt: skip
    server.close()
    rows = grading.load(grades)
    after = {path for path in base.rglob("*")}
    about = {"run": run, "rows": rows, "names": names, "heard": heard, "grades": grades, "base": base}
    return {**about, "new": after - before}


def the_row(graded, name: str, exercise: str = "causal-mask") -> grading.Row:
    return next(row for row in graded["rows"] if row.file == name and row.exercise in (exercise, ""))


def test_the_grader_reaches_its_end(graded):
    assert graded["run"].returncode == 0, graded["run"].stderr[-3000:]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_earns_nothing(graded, attack):
    row = the_row(graded, graded["names"][attack])
    assert row.status in ATTACKS[attack][1] and row.points == 0, (row.status, row.message)


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_no_notebook_is_refused_with_the_reason(graded, file):
    row = the_row(graded, file)
    assert row.status == "refused" and FILES[file][1] in row.message and row.points == 0


def test_links_and_pipes_are_refused_and_a_linked_folder_is_not_entered(graded):
    assert "symbolic link" in the_row(graded, "link.py").message
    assert "not a plain file" in the_row(graded, "pipe.ipynb").message
    assert not [row for row in graded["rows"] if "hidden" in row.file]


def test_honest_submissions_before_and_after_get_their_points(graded):
    for name in ("a-first.py", "zz-last.py", "=cmd|calc.py"):
        assert the_row(graded, name).status == "passed", name


def test_nobody_was_connected_to_and_nothing_was_written_but_the_grades(graded):
    assert graded["heard"] == []
    assert {path.name for path in graded["new"]} == {"grades.csv", "grades.md", "grades-students.csv"}


def test_a_flood_is_cut_off_where_it_comes_out_of_the_sandbox(graded):
    assert "too large" in the_row(graded, graded["names"]["it floods the way back"]).message


@pytest.mark.parametrize(
    "attack, reason",
    [("it kills itself", "was killed"), ("a crash", "crashed"),
     ("it ends by a signal without a name", "crashed"), ("os._exit", "ended before"),
     ("an endless loop below Python", "longer than 6 s"), ("it stops itself", "longer than 6 s")],
)  # fmt: skip
def test_an_answer_whose_process_ended_is_told_how(graded, attack, reason):
    assert reason in the_row(graded, graded["names"][attack]).message


def test_nothing_that_a_submission_started_is_still_there(graded):
    left = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = status.read_bytes()
        except OSError:
            continue
        if str(graded["base"]).encode() in command or b"sleep\x001000" in command:
            left.append(command)
    assert left == []


def test_a_name_that_a_spreadsheet_would_run_is_made_harmless(graded):
    assert "\n=cmd" not in graded["grades"].read_text() and "'=cmd|calc" in graded["grades"].read_text()


def test_the_attacks_would_succeed_without_the_sandbox():
    """What an attack tries is possible in an ordinary process: it is the sandbox that keeps it from it."""
    harmless = ["it reads other people's files", "it imports the judge", "a shell"]
    for attack in harmless:
        space: dict[str, object] = {}
        exec(ATTACKS[attack][0].rsplit(CHECK, 1)[0], space)
        assert get("causal-mask").check(space["causal_mask"]).passed, attack
