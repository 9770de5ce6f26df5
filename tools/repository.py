"""The repository's address: it stands in ``_config.yml``, and this carries it everywhere else.

    python tools/repository.py                                   says what it is, and which places disagree
    python tools/repository.py https://github.com/OWNER/NAME     changes it

The notebooks' set-up cells hold it too: Colab installs the package from there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = re.compile(
    r"https://github\.com/([A-Za-z0-9](?:[A-Za-z0-9-]{0,37}[A-Za-z0-9])?)/([A-Za-z0-9_][A-Za-z0-9._-]{0,99})"
)
# Spellings of "this repository" in the files: a link, Colab's link, the published book.
MENTION = re.compile(
    r"(?P<git>github\.com[/:])(?P<owner>[\w-]+)/(?P<name>[\w.-]*\w)"
    r"|(?P<colab>colab\.research\.google\.com/github/)(?P<owner2>[\w-]+)/(?P<name2>[\w.-]*\w)"
    r"|(?P<pages>https?://)(?P<owner3>[\w-]+)\.github\.io(?:/(?P<name3>[\w.-]*\w))?"
)
TEXT = {
    ".md",
    ".toml",
    ".yml",
    ".yaml",
    ".cff",
    ".py",
    ".ipynb",
    ".html",
    ".cfg",
    ".txt",
    ".json",
    ".js",
    ".mjs",
    ".bib",
}


@dataclass(frozen=True)
class Repository:
    owner: str
    name: str

    @property
    def url(self) -> str:
        return f"https://github.com/{self.owner}/{self.name}"

    @property
    def pages(self) -> str:
        """Where GitHub Pages publishes the book."""
        site = f"{self.owner.lower()}.github.io"
        return f"https://{site}" if self.name.lower() == site else f"https://{site}/{self.name}"


def parse(address: str) -> Repository:
    """The repository of a GitHub address.

    Raises:
        ValueError: for anything else; Colab's button and GitHub Pages need a repository on GitHub.
    """
    cleaned = address.strip().removesuffix("/").removesuffix(".git")
    match = ADDRESS.fullmatch(cleaned)
    if match is None or "--" in match[1]:
        raise ValueError(f"not a repository's address: {address!r}; expected https://github.com/OWNER/NAME")
    return Repository(match[1], match[2])


def current(root: Path = ROOT) -> Repository:
    """The address that ``_config.yml`` holds."""
    match = re.search(
        r"^repository:\n(?:[ \t]+.*\n|\n)*?[ \t]+url:[ \t]*(\S+)", _read(root / "_config.yml"), re.MULTILINE
    )
    if match is None:
        raise ValueError("_config.yml has no repository.url")
    return parse(match[1])


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def files(root: Path = ROOT) -> list[Path]:
    """Every text file of the course: what git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if listed.returncode == 0:
        paths = [root / name for name in listed.stdout.split("\0") if name]
    else:  # a copy without git
        hidden = {".git", ".venv", "node_modules", "_build"}
        paths = [path for path in root.rglob("*") if not hidden & set(path.relative_to(root).parts)]
    wanted = (path for path in paths if path.suffix in TEXT or path.name == "Makefile")
    return sorted(path for path in wanted if path.is_file() and path.name != "package-lock.json")


def holders(root: Path = ROOT) -> list[Path]:
    """The files that may hold the address; tests and tools spell out wrong ones on purpose, and read the true one."""
    return [path for path in files(root) if path.relative_to(root).parts[0] not in {"tests", "tools"}]


def replaced(text: str, old: Repository, new: Repository) -> str:
    """``text`` with every mention of ``old`` turned into ``new``."""

    def one(match: re.Match[str]) -> str:
        if match["pages"]:
            mine = match[0].lower().rstrip("/") == old.pages.lower()
            return new.pages if mine else match[0]
        where = match["git"] or match["colab"]
        name = match["name"] or match["name2"]
        ending = ".git" if name.endswith(".git") else ""
        mine = (match["owner"] or match["owner2"], name.removesuffix(".git")) == (old.owner, old.name)
        return f"{where}{new.owner}/{new.name}{ending}" if mine else match[0]

    return MENTION.sub(one, text)


def strays(texts: Iterable[tuple[str, str]], mine: Repository) -> list[str]:
    """Mentions of what is nearly ours: its name under another owner, its owner's other names, other pages."""
    found = []
    for where, text in texts:
        for match in MENTION.finditer(text):
            owner = match["owner"] or match["owner2"] or match["owner3"]
            name = (match["name"] or match["name2"] or match["name3"] or "").removesuffix(".git")
            ours = (
                match[0].lower() == mine.pages.lower()
                if match["pages"]
                else (owner, name) == (mine.owner, mine.name)
            )
            near = (
                owner.lower() == mine.owner.lower()
                or name.lower() == mine.name.lower()
                or bool(match["colab"])
            )
            if near and not ours:
                found.append(f"{where}: {match[0]}")
    return found


def change(new: Repository, root: Path = ROOT) -> list[Path]:
    """Carry ``new`` everywhere; the files that changed. All of them are made before the first is written."""
    old = current(root)
    written = {}
    for path in holders(root):
        before = _read(path)
        after = replaced(before, old, new)
        if after != before:
            written[path] = (before, after)
    try:
        for path, (_, after) in written.items():
            path.write_text(after, encoding="utf-8")
        if current(root) != new:
            raise ValueError("_config.yml does not hold the new address")
    except BaseException:
        for path, (before, _) in written.items():
            path.write_text(before, encoding="utf-8")
        raise
    return [*written]


def main(arguments: list[str]) -> int:
    try:
        mine = parse(arguments[0]) if arguments else current()
        changed = change(mine) if arguments else []
    except ValueError as error:
        print(f"set-repository: {error}", file=sys.stderr)
        return 1
    if arguments:
        from tools import notebooks

        changed += [path.with_suffix(".ipynb") for path in notebooks.sources() if notebooks.synchronise(path)]
    for path in sorted(set(changed)):
        print(f"  {path.relative_to(ROOT)}")
    wrong = strays(((str(path.relative_to(ROOT)), _read(path)) for path in holders()), mine)
    for line in wrong:
        print(f"  disagrees: {line}", file=sys.stderr)
    print(f"set-repository: {mine.url}, the book at {mine.pages}; {len(set(changed))} files changed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
