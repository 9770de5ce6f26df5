"""Renew constraints.txt: the newest versions that pyproject.toml allows, from a fresh environment.

    python3.11 tools/constraints.py

What is left out: paths, local version suffixes (the CPU build of torch is ``2.13.0+cpu``), and the CUDA
libraries that torch's own wheel pins exactly. Run the tests afterwards: a new version may change an output.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = "notebooks,book,test,lab,node"
HEAD = "# Versions that work together: `pip freeze` of a fresh environment, renewed by `make constraints`.\n"
CUDA = re.compile(r"^(nvidia-|cuda-|triton\b|pytorch-triton)", re.IGNORECASE)
PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^+\s]+)(\+\S+)?$")


def constraints(freeze: str) -> str:
    """The text of constraints.txt for what ``pip freeze --all`` printed."""
    pins = {}
    for line in freeze.splitlines():
        match = PIN.match(line.strip())
        if match and not CUDA.match(line) and match[1].lower() not in {"pip", "attn-course", "attn_course"}:
            pins[match[1]] = match[2]
    return HEAD + "".join(f"{name}=={pins[name]}\n" for name in sorted(pins, key=str.lower))


def torch_pin(old: str) -> str:
    """torch keeps its pin until it is raised by hand: it decides the numbers that the book shows."""
    found = re.search(r"^torch==\S+$", old, re.MULTILINE)
    return found[0] if found else "torch==2.13.0"


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    path = ROOT / "constraints.txt"
    old = path.read_text() if path.exists() else ""
    with tempfile.TemporaryDirectory() as folder:
        print("make constraints: a fresh environment (a few minutes)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = f"{folder}/bin/python"
        pip = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, torch_pin(old), "hatchling", "editables"], check=True)
        subprocess.run([*pip, "--no-build-isolation", "-e", f"{ROOT}[{EXTRAS}]"], check=True)
        freeze = subprocess.run(
            [python, "-m", "pip", "freeze", "--all"], check=True, capture_output=True, text=True
        )
    new = constraints(freeze.stdout)
    before, after = set(old.splitlines()), set(new.splitlines())
    for sign, lines in (("-", before - after), ("+", after - before)):
        for line in sorted(lines):
            print(f"  {sign} {line}")
    path.write_text(new)
    print(f"make constraints: {len(after) - 1} pins; `make test` tells whether they work together")
    return 0


if __name__ == "__main__":
    sys.exit(main())
