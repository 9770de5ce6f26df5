"""Make the environment: .venv with what constraints.txt pins, and the node packages. Needs Python alone.

    python3.11 tools/env.py [--venv .venv] [--constraints constraints.txt]

An empty ``--constraints`` takes the newest versions that pyproject.toml allows.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTED = (3, 11)
EXTRAS = "notebooks,book,test"


def runs(python: Path) -> bool:
    """Whether the environment's Python starts, and is of this interpreter's version."""
    if not python.exists():
        return False
    ask = "import sys, pip; print(*sys.version_info[:2])"
    answer = subprocess.run([python, "-c", ask], capture_output=True, text=True)
    return answer.stdout.split() == [str(part) for part in sys.version_info[:2]]


def commands(python: Path, constraints: str) -> list[list[str]]:
    """What fills the environment, in order. The build backend comes first, so that it is pinned too."""
    pins = ["-c", constraints] if constraints else ["--upgrade"]
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *pins]
    if not sys.stdout.isatty():
        pip += ["--quiet", "--quiet"]  # in a log: errors only
    return [
        [*pip, "hatchling", "editables"],
        [*pip, "--no-build-isolation", "-e", f".[{EXTRAS}]"],
        [str(python), str(ROOT / "tools" / "node.py")],
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", default=".venv")
    parser.add_argument("--constraints", default="constraints.txt")
    options = parser.parse_args()
    started = time.monotonic()
    if sys.version_info < (3, 10):  # noqa: UP036 (this file runs before anything else has looked)
        print(f"make env: Python 3.10 or newer is needed, this is {sys.version.split()[0]}", file=sys.stderr)
        return 1
    if sys.version_info[:2] != TESTED:
        print(f"make env: the pins were tested with Python 3.11, this is {sys.version.split()[0]}")

    folder = ROOT / options.venv
    python = folder / "bin" / "python"
    if not runs(python):
        print(f"make env: making {options.venv} with Python {sys.version.split()[0]}", flush=True)
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", folder])
        if made.returncode:
            print("make env: this Python cannot make environments (Debian: python3.11-venv)", file=sys.stderr)
            return 1
    print("make env: installing (a minute or two the first time, 1.5 GB with torch)", flush=True)
    for command in commands(python, options.constraints):
        environment = {**os.environ, "PYTHONNOUSERSITE": "1"}
        if subprocess.run(command, cwd=ROOT, env=environment).returncode:
            print(f"make env: failed at `{' '.join(command)}`", file=sys.stderr)
            return 1
    (folder / ".stamp").touch()
    print(f"make env: {options.venv} is ready, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
