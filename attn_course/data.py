"""Data for the experiments: real, and there without a download.

Chapter 1 reads the source code of Python's own standard library, which every reader has. The text is read where it
is installed (it stays under the Python licence) and is not part of this repository.
"""

import hashlib
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SENTENCE = ("dog", "bites", "man")
"""The short sentence that runs through the book."""

ALPHABET = "\n" + "".join(chr(code) for code in range(32, 127))
"""The characters that a model of text knows: line end and printable ASCII."""

UNKNOWN = len(ALPHABET)
"""The token of every other character."""

VOCABULARY_SIZE = len(ALPHABET) + 1

# The modules that are read, in this order, and what they hold in the Python that made the book's records.
TRAIN_MODULES = (
    "argparse", "calendar", "codecs", "configparser", "contextlib", "copy", "csv", "dataclasses", "difflib", "dis",
    "doctest", "enum", "fractions", "functools", "gettext", "gzip", "heapq", "inspect", "ipaddress", "locale",
    "mailbox", "optparse", "os", "pdb", "pickle", "platform", "plistlib", "pprint", "random", "shlex", "shutil",
    "smtplib", "socket", "statistics", "subprocess", "tarfile", "threading", "trace", "typing", "weakref",
)  # fmt: skip
TEST_MODULES = (
    "cmd",
    "fileinput",
    "mimetypes",
    "selectors",
    "socketserver",
    "tempfile",
    "textwrap",
    "traceback",
    "uuid",
)
RECORDED_PYTHON = "3.11.7"
RECORDED_SHA256 = {
    "train": "b7d22c021e119975b004607c98ab1aaae19368432f3f0708541432b0764807c7",
    "test": "468bb7a6627ac93adffcbd98f7c5525120b4398ccf521657fbed8fad067046d2",
}


@dataclass(frozen=True)
class Text:
    """Text as tokens, split by module, and a note on where it comes from.

    ``train`` and ``test`` are int64 tensors of shape ``(characters,)``. ``sha256`` maps each part to the hash of its
    text; ``note`` is a sentence that says which Python was read and whether it is the text of the book's records.
    """

    train: Tensor
    test: Tensor
    sha256: dict[str, str]
    note: str


def encode(text: str) -> Tensor:
    """Characters to tokens, ``(len(text),)`` int64; what is not in ``ALPHABET`` becomes ``UNKNOWN``."""
    index = {character: token for token, character in enumerate(ALPHABET)}
    return torch.tensor([index.get(character, UNKNOWN) for character in text], dtype=torch.long)


def decode(tokens: Tensor) -> str:
    """Tokens ``(n,)`` back to characters; ``UNKNOWN`` shows as ``�``."""
    return "".join((ALPHABET + "�")[token] for token in tokens.tolist())


def standard_library() -> Text:
    """The source code of a fixed list of standard-library modules, as characters.

    The split is by module, so that no line of a test module has been trained on. Another version of Python holds
    another text: that is said in ``note``, and figures then differ from the book's.

    Raises:
        FileNotFoundError: this Python was installed without its sources.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    parts, missing = {}, []
    for name, modules in {"train": TRAIN_MODULES, "test": TEST_MODULES}.items():
        files = [folder / f"{module}.py" for module in modules]
        missing += [file.stem for file in files if not file.is_file()]
        parts[name] = "\n".join(file.read_text("utf-8") for file in files if file.is_file())
    if not parts["train"] or not parts["test"]:
        raise FileNotFoundError(
            f"no sources of the standard library in {folder}; missing: {', '.join(missing)}"
        )

    sha256 = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in parts.items()}
    version = ".".join(map(str, sys.version_info[:3]))
    size = f"{len(parts['train']):,} characters to train on, {len(parts['test']):,} to test on"
    if sha256 == RECORDED_SHA256:
        note = f"The standard library of Python {version}: {size}, the same text as in the book's records."
    else:
        note = (
            f"The standard library of Python {version}: {size}. The book's records were made with "
            f"Python {RECORDED_PYTHON}, whose text differs, so figures will differ a little too."
        )
    if missing:
        note += f" Not found here: {', '.join(missing)}."
    return Text(encode(parts["train"]), encode(parts["test"]), sha256, note)
