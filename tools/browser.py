"""Find a Chromium for the browser checks, and get one where there is none.

    python tools/browser.py            prints the path of the program

Order: $CHROMIUM, the system's browsers, the one that Playwright has downloaded. Without any: the system's
packages (Debian, as root or by sudo without a password), then ``playwright install chromium``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"


def find() -> str | None:
    """The path of a Chromium that starts, or None."""
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), MAC, _playwrights()]
    return next((path for path in candidates if path and starts(path)), None)


def starts(path: str) -> bool:
    """Whether the program is there and tells its version (a stub that only names a package does not)."""
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and any(digit in answer.stdout for digit in "123456789")


def _playwrights() -> str | None:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def recipes() -> list[list[list[str]]]:
    """The ways to get a browser here, each a list of commands, the best one first."""
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    ways = []
    if shutil.which("apt-get") and not _is_ubuntu():  # Ubuntu's package is a stub for a snap
        install = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq"]
        ways.append(
            [[*root, "apt-get", "update", "-qq"], [*root, *install, "--no-install-recommends", "chromium"]]
        )
    playwright = [sys.executable, "-m", "playwright", "install"]
    ways.append([[*playwright, "--with-deps", "chromium"]])
    ways.append([[*playwright, "chromium"]])
    return ways


def _is_ubuntu() -> bool:
    release = Path("/etc/os-release")
    return release.exists() and "ubuntu" in release.read_text().lower()


def ensure() -> str:
    """The path of a Chromium, fetched if there was none; ``SystemExit`` where none can be had."""
    found = find()
    for way in [] if found else recipes():
        for command in way:
            print(f"no browser yet: {' '.join(command)}", file=sys.stderr, flush=True)
            try:
                if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode:
                    break
            except OSError:
                break
        found = find()
        if found:
            break
    if found is None:
        raise SystemExit(
            "no browser: the browser checks need Chromium. Install Chromium or Chrome, or set CHROMIUM."
        )
    return found


if __name__ == "__main__":
    print(ensure())
