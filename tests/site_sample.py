"""A small chapter that uses everything a chapter may use; the tests of the book build and check it."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import zlib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any


def png(width: int = 480, height: int = 300) -> str:
    """A grey gradient on white as base64, made without matplotlib."""
    rows = b"".join(b"\x00" + bytes(255 - (x * 200 // width) for x in range(width)) for _ in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    whole = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return base64.b64encode(whole).decode()


def markdown(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def code(
    source: str, *outputs: dict[str, Any], tags: tuple[str, ...] = (), **metadata: Any
) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {"tags": list(tags), **metadata},
        "outputs": list(outputs),
        "source": source,
    }


def shows(*, metadata: dict[str, Any] | None = None, **data: str) -> dict[str, Any]:
    """A display output; names like text_markdown or image_png stand for the MIME type."""
    kinds = {"text_plain": "<IPython.core.display.Markdown object>", **data}
    return {
        "output_type": "display_data",
        "metadata": metadata or {},
        "data": {name.replace("_", "/", 1): value for name, value in kinds.items()},
    }


def prints(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def glues(name: str, value: str) -> dict[str, Any]:
    prefix = "application/papermill.record/"
    return {
        "output_type": "display_data",
        "metadata": {"scrapbook": {"name": name, "mime_prefix": prefix}},
        "data": {prefix + "text/plain": value, prefix + "text/html": value},
    }


def panel(tone: str, heading: str, text: str) -> str:
    """A panel as the exercises show it; the module is read by itself, without torch."""
    path = Path(__file__).resolve().parent.parent / "attn_course" / "exercises" / "panel.py"
    spec = spec_from_file_location("sample_panel", path)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.panel(tone, heading, text)


TRACEBACK = {
    "output_type": "error",
    "ename": "RuntimeError",
    "evalue": "value cannot be converted to type at::Half without overflow",
    "traceback": [
        "\x1b[31m---------------------------------------------------------------------------\x1b[39m",
        "\x1b[31mRuntimeError\x1b[39m                              Traceback (most recent call last)",
        "Cell In[7]\x1b[32m, line 1\x1b[39m\n\x1b[32m----> 1\x1b[39m scores.masked_fill(mask == 0, -1e9)",
        "\x1b[31mRuntimeError\x1b[39m: value cannot be converted to type at::Half without overflow",
    ],
}


def chapter() -> dict[str, Any]:
    """The notebook, as parsed JSON."""
    cells = [
        markdown(
            "# Transformer attention\n\n"
            "**Aims.** Write attention, say what it costs, and break it. **Needs.** Matrix products. "
            "**Takes.** 90 minutes.\n\nLetters stand on the [notation page](../book/notation.md)."
        ),
        code(
            "%pip install --quiet --no-deps attn-course\nimport torch",
            prints("Device: cpu. Everything runs.\n"),
            tags=("setup",),
        ),
        markdown(
            "## The trouble\n\nA word's meaning depends on words far away. Additive attention "
            "([Bahdanau et al., 2015](https://arxiv.org/abs/1409.0473)) came first; the form below is due to "
            "[Vaswani et al., 2017](https://arxiv.org/abs/1706.03762v5). See [figure](#fig-map) and "
            "[equation](#eq-attention); [Figure](#fig-map) opens a sentence, and `[figure](#fig-map)` is code.\n\n"
            "> **Predict.** Three tokens, one query. Which weight is the largest?\n>\n"
            "> - the first\n> - the last, because $q \\cdot k_3 = 2$\n"
        ),
        markdown(
            "## The formula\n\n"
            '<a id="eq-attention"></a>\n$$\n\\operatorname{attention}(Q, K, V) = '
            "\\operatorname{softmax}\\left(\\frac{QK^\\top}{\\sqrt{d_k}} + \\text{bias}\\right) V\n$$\n\n"
            '<a id="eq-weights"></a>\n$$ w_{ij} = \\frac{\\exp(s_{ij})}{\\sum_{l=1}^{n_k} \\exp(s_{il})} '
            "\\qquad\\text{so that}\\qquad \\sum_{j=1}^{n_k} w_{ij} = 1 \\quad\\text{for every query } i "
            "= 1, \\dots, n_q $$\n\n"
            "where $\\boldsymbol{q}_i \\in \\mathbb{R}^{d_k}$. [Equation](#eq-weights) is long on purpose.\n\n"
            "| our name | shape | what it is | where it is made | what it costs in FLOPs, forward, per layer |\n"
            "|---|---|---|---|---|\n| `scores` | $(B, h, n_q, n_k)$ | before the softmax | "
            "`scaled_dot_product_attention` | $2 B h n_q n_k d_k$ |\n"
            "| `weights` | $(B, h, n_q, n_k)$ | after it | `masked_softmax` | not counted |\n"
        ),
        markdown(
            "> **Exercise: causal mask.** Write `causal_mask(n)`.\n>\n> ```python\n> def causal_mask(n):\n"
            ">     ...  # [figure](#fig-map) stays as it is\n> ```\n>\n> It is used in [equation](#eq-attention)."
        ),
        code(
            "def causal_mask(n):\n    raise NotImplementedError\n\n\nexercise.check(causal_mask)",
            shows(
                text_html=panel(
                    "idle", "○ causal-mask: not attempted", 'Write it. `get("causal-mask").hint()`'
                )
            ),
        ),
        code(
            "exercise.check(causal_mask)",
            shows(text_html=panel("passed", "✓ causal-mask: passed", "12 cases.")),
        ),
        code(
            "exercise.check(torch.triu)",
            shows(
                text_html=panel(
                    "wrong", "✗ causal-mask: wrong", "Row 0 sees key 3:\n\n    " + "1 0 1 0 " * 12
                )
            ),
        ),
        code(
            "def scaled_dot_product_attention(q, k, v, mask=None):\n"
            "    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5  # a line that is so long that it does not fit\n"
            "    weights = masked_softmax(scores, mask)\n    return weights @ v, weights",
            tags=("hide-input",),
        ),
        code(
            "say(...)",
            glues("sample-weight", "0.5761"),
            shows(
                text_markdown="The largest weight is **0.58** ([equation](#eq-weights)), see [figure](#fig-map); "
                "$d_k = 4$. The rest is in [Dao et al., 2022](https://arxiv.org/abs/2205.14135)."
            ),
            tags=("remove-input",),
        ),
        code(
            "plots.attention_map(weights)",
            shows(text_markdown="A sentence beside the picture."),
            shows(image_png=png(), text_plain="<Figure size 480x300 with 1 Axes>"),
            mystnb={
                "figure": {
                    "name": "fig-map",
                    "caption": "Weights of one head, by [equation](#eq-weights): $w_{ij}$.",
                },
                "image": {"alt": "A map that darkens from left to right."},
            },
        ),
        markdown(
            "## Where it breaks\n\n> **Trap.** `masked_fill(-1e9)` raises in float16.\n\n"
            "> **Note.** A plain remark with [a link](../book/glossary.md).\n\n> An ordinary quotation."
        ),
        code("scores.masked_fill(mask == 0, -1e9)", TRACEBACK, tags=("raises-exception",)),
        code(
            "train(model)",
            prints(" 40%|████      | 4/10 [00:01<00:02,  2.5it/s]\r100%|██████████| 10/10\n", "stderr"),
            prints("bits per character " + " ".join(f"{x / 10:.4f}" for x in range(60)) + "\n"),
            tags=("hide-output",),
        ),
        code(
            "interact(draw)",
            {
                "output_type": "display_data",
                "metadata": {},
                "data": {
                    "application/vnd.jupyter.widget-view+json": {"model_id": "0", "version_major": 2},
                    "text/plain": "interactive(children=(IntSlider(value=3), Output()))",
                },
            },
        ),
        markdown("## What we know now\n\nRead on: [chapter list](../book/intro.md)."),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "attn_course": {
                "fingerprint": "0",
                "versions": {"python": "3.11.7", "torch": "2.13.0"},
                "machine": "a sample processor, 2 cores, no GPU",
            },
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


PAGES = {
    "intro": "# A sample book\n\nNo formula here. [The chapter](../notebooks/01_sample.ipynb).\n",
    "summary": "# Summary\n\nGlued: {glue:text}`../notebooks/01_sample.ipynb::sample-weight:.2f`. "
    "See [Woo et al., 2018](https://arxiv.org/abs/1807.06521).\n",
    "notation": "# Notation\n\nLetters.\n",
    "glossary": "# Glossary\n\nWords.\n",
}
TOC = """format: jb-book
root: book/intro
parts:
  - caption: Chapters
    numbered: 2
    chapters:
      - file: notebooks/01_sample
  - caption: Beside
    chapters:
      - file: book/summary
      - file: book/notation
      - file: book/glossary
      - file: book/references
"""


def write(root: Path, repository: Path, *mistakes: str) -> None:
    """A small book under ``root``: the repository's settings, extension and tools, its own pages and chapter."""
    skip = shutil.ignore_patterns("*.md", "__pycache__")
    shutil.copytree(repository / "book", root / "book", ignore=skip)
    shutil.copy2(repository / "book" / "references.md", root / "book")
    (root / "tools").mkdir()
    for name in (
        "tools/site.py",
        "tools/node.py",
        "tools/lean.py",
        "_config.yml",
        "package.json",
        "package-lock.json",
    ):
        shutil.copy2(repository / name, root / name)
    (root / "node_modules").symlink_to(repository / "node_modules", target_is_directory=True)
    for name, text in PAGES.items():
        (root / "book" / f"{name}.md").write_text(text, encoding="utf-8")
    (root / "_toc.yml").write_text(TOC, encoding="utf-8")
    notebook = chapter()
    notebook["cells"] += [{**markdown(text), "id": f"mistake-{i}"} for i, text in enumerate(mistakes)]
    (root / "notebooks").mkdir()
    (root / "notebooks" / "01_sample.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
