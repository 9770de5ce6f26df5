"""Build the book, and serve it.

    python tools/site.py build          builds _build/html if something changed, and prints the page to open
    python tools/site.py build --force  builds in any case
    python tools/site.py serve          builds, then serves on this machine until Ctrl-C

Every build starts from an empty folder, because old files hide missing ones, and fails on any warning.
Notebooks are not run: their stored outputs are shown.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import shutil
import sys
import threading
import time
from collections.abc import Iterable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import yaml
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).resolve().parent))
import lean
import node

ROOT = node.ROOT
INPUTS = (
    "_config.yml",
    "_toc.yml",
    "package-lock.json",
    "tools/site.py",
    "tools/node.py",
    "tools/lean.py",
    "book",
    "notebooks",
    "attn_course/widgets",
    "attn_course/exercises",
    "results/colab",
)
TOOLS = (
    "jupyter-book",
    "Sphinx",
    "myst-nb",
    "myst-parser",
    "sphinx-book-theme",
    "pydata-sphinx-theme",
    "docutils",
)


def inputs(root: Path) -> Iterable[Path]:
    """Every file that the site is made from."""
    for name in INPUTS:
        path = root / name
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            hidden = any(
                part.startswith(".") or part == "__pycache__" for part in file.relative_to(root).parts
            )
            # The notebooks' .py twins are not part of the book.
            if file.is_file() and not hidden and not (name == "notebooks" and file.suffix == ".py"):
                yield file


def fingerprint(root: Path) -> str:
    """One hash of every input and of the programs that read them."""
    digest = hashlib.sha256()
    for name in TOOLS:
        digest.update(f"{name} {version(name)}\n".encode())
    for file in inputs(root):
        digest.update(f"{file.relative_to(root).as_posix()}\n".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def build(root: Path = ROOT, *, force: bool = False) -> Path:
    """Build the site under ``root/_build/html`` unless it is up to date.

    Returns:
        The page to open, ``index.html``.

    Raises:
        SystemExit: the build gave an error or a warning.
    """
    out = root / "_build"
    out.mkdir(exist_ok=True)
    with FileLock(out / ".lock"):
        index, stamp = out / "html" / "index.html", out / "site.sha256"
        now = fingerprint(root)
        if not force and index.exists() and stamp.exists() and stamp.read_text() == now:
            print("the book is up to date", file=sys.stderr)
            return index
        started = time.perf_counter()
        print("building the book", file=sys.stderr, flush=True)
        stamp.unlink(missing_ok=True)
        for folder in ("html", ".doctrees", "jupyter_execute"):
            shutil.rmtree(out / folder, ignore_errors=True)
        node.node_modules()
        _sphinx(root, out)
        _front_door(root, index)
        lean.lean(out / "html", out / "pictures")
        stamp.write_text(now)
        print(f"built in {time.perf_counter() - started:.1f} s", file=sys.stderr)
        return index


def _sphinx(root: Path, out: Path) -> None:
    """What `jupyter-book build -W --keep-going` does."""
    from jupyter_book.sphinx import build_sphinx

    result = build_sphinx(
        root,
        out / "html",
        noconfig=True,
        path_config=root / "_config.yml",
        confoverrides={"external_toc_path": (root / "_toc.yml").as_posix(), "latex_individualpages": False},
        doctreedir=out / ".doctrees",
        warningiserror=True,
        keep_going=True,
        quiet=True,
    )
    if result:
        raise SystemExit("the book was not built: see the warnings above")


def _front_door(root: Path, index: Path) -> None:
    """index.html leads to the first page, also where scripts and refreshes are off."""
    first = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))["root"] + ".html"
    title = html.escape(yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["title"])
    index.write_text(
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="refresh" content="0; url={first}">\n<link rel="canonical" href="{first}">\n'
        f'<link rel="icon" href="_static/logo.svg">\n</head>\n'
        f'<body><main><h1>{title}</h1><p><a href="{first}">Open the book</a></p></main></body>\n</html>\n',
        encoding="utf-8",
    )


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server for this folder on this machine alone, already running in a thread; port 0 takes a free one."""
    running = ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    return running


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["build", "serve"])
    parser.add_argument("--force", action="store_true", help="build although nothing changed")
    parser.add_argument("--port", type=int, default=8000, help="where to serve (default: 8000)")
    arguments = parser.parse_args()
    index = build(force=arguments.force)
    if arguments.command == "build":
        print(index)
        return
    with server(index.parent, arguments.port) as running:
        print(f"http://127.0.0.1:{running.server_address[1]}/  (Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            running.shutdown()


if __name__ == "__main__":
    main()
