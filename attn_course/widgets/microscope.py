"""The attention microscope of chapter 1: every number between a sentence and what each of its words receives."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..analysis import attention_entropy
from ..data import encode
from ..experiments import chapter1, load_model
from ..transformer import causal_mask, merge_heads, padding_mask, scaled_dot_product_attention, split_heads
from ..window import sliding_window_mask
from .figure import Figure, Table, _as_text

SNIPPETS = ("self.join(path, name[1:])", "if len(names) > max(sizes):", "return None if x is None else x")
LONGEST = 8  # words of the reader's own
WIDTH = 4  # of their vectors
FINE = 1000  # queries, keys and values of the trained model are stored in thousandths
LARGEST = 99  # of an edited number

# The three tokens of the chapter.
GIVEN: dict[str, Any] = {
    "words": ["dog", "bites", "man"],
    "q": [[0.0, 1.0], [2.0, 0.0], [0.0, 1.0]],
    "k": [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]],
    "v": [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]],
}
LETTERS: dict[str, str] = {"q": "Queries q", "k": "Keys k", "v": "Values v"}
CHOICES: dict[str, tuple[Any, ...]] = {
    "source": ("given", "own", "trained"),
    "mask": ("none", "causal", "padding", "front", "window"),
    "heads": (1, 2, 4),
    "temperature": (0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10),
}
COUNTS = ("snippet", "layer", "head", "query", "real", "window")


class AttentionMicroscope(Figure):
    """Queries, keys and values to edit, and the scores, weights and outputs that come of them.

    Three sources: the three words of chapter 1; the reader's own words, whose vectors come from `word_vectors` and
    fixed matrices; and the trained model of the chapter, whose queries, keys and values on a few lines of code are
    stored, so that its maps can be replayed, also at another temperature or under another mask than its own.

    Args:
        snippets: the lines of code that are stored; none leaves the trained model out.
        settings: where the controls begin: ``source`` (``given``, ``own``, ``trained``), ``sentence`` (own words),
            ``snippet`` (its number), ``layer`` (from 1), ``heads`` (1, 2 or 4; as many as there are channels at most,
            4 in the trained model), ``head`` and ``query`` (from 0), ``temperature`` (divides the scores;
            0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1 and up to 10),
            ``mask`` (``none``, ``causal``, ``padding`` at the end, ``front``: padding in front and causal,
            ``window``), ``real`` (tokens that are no padding), ``window`` (reach on each side), ``edits`` (entries of
            queries, keys and values: ``["q", word, channel, value]``; the trained model has none). What is larger
            than the sentence allows counts as the largest that it allows.

    Raises:
        FileNotFoundError: the trained model is not there.
        ValueError: there is no such control, or it cannot stand there.
    """

    name = "microscope"
    title = "Attention microscope: what each word asks for, finds and receives"

    def __init__(self, snippets: Sequence[str] = SNIPPETS, **settings: Any) -> None:
        begin = {
            "source": "given",
            "sentence": "the dog bites the man",
            "snippet": 0,
            "layer": 2,
            "heads": 1,
            "head": 0,
            "query": 1,
            "temperature": 1,
            "mask": "none",
            "real": 2,
            "window": 1,
            "edits": [],
        }
        super().__init__(
            {"given": GIVEN, "matrices": _matrices(), "snippets": _stored(snippets), "longest": LONGEST},
            begin,
        )
        self._settings = self._checked(settings)

    def _checked(self, settings: dict[str, Any]) -> dict[str, Any]:
        now = super()._checked(settings)
        for name, known in CHOICES.items():
            if now[name] not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {now[name]!r}")
        for name in COUNTS:
            least = 1 if name == "layer" else 0
            if not isinstance(now[name], int) or isinstance(now[name], bool) or now[name] < least:
                raise ValueError(f"{name} must be a whole number from {least} on, got {now[name]!r}")
        if not isinstance(now["sentence"], str) or not 1 <= len(_words(now["sentence"])) <= LONGEST:
            raise ValueError(f"sentence must be text of 1 to {LONGEST} words, got {now['sentence']!r}")
        if now["source"] == "trained" and not self.data["snippets"]:
            raise ValueError("this microscope was made without snippets of the trained model")
        self._check_edits(now)
        return now

    def _check_edits(self, now: dict[str, Any]) -> None:
        n, width = LONGEST, WIDTH
        if now["source"] == "given":
            n, width = len(GIVEN["words"]), len(GIVEN["q"][0])
        elif now["source"] == "own":
            n = len(_words(now["sentence"]))
        for edit in now["edits"]:
            letter, row, channel, value = edit if len(edit) == 4 else (None, None, None, None)
            if letter not in LETTERS or row not in range(n) or channel not in range(width):
                raise ValueError(
                    f'an edit is ["q", "k" or "v", word below {n}, channel below {width}, value], got {edit!r}'
                )
            if not _is_number(value) or abs(float(value or 0)) > LARGEST:
                raise ValueError(f"an edited number must lie within ±{LARGEST}, got {value!r}")

    def text(self) -> str:
        return (
            "The way from queries, keys and values to what each word receives, step by step: every query is "
            "compared with every key (scores), a mask may forbid some, softmax turns each row into weights that add "
            "up to 1, and the output is the mean of the values with these weights. The numbers of one's own words "
            "are not learned: they come from the letters by a fixed rule, so equal words get equal numbers."
        ) + (
            " The trained model's queries, keys and values are those of the chapter's language model, stored in "
            "thousandths; an open bracket is the round one that was opened last."
            if self.data["snippets"]
            else ""
        )

    def tables(self, **settings: Any) -> list[Table]:
        now = self._checked(settings)
        words, whole = self._vectors(now)
        n, width = whole["q"].shape
        heads = 4 if now["source"] == "trained" else min(now["heads"], width)
        head, query = min(now["head"], heads - 1), min(now["query"], n - 1)
        q, k, v = (split_heads(whole[letter][None], heads)[0] for letter in LETTERS)  # each (h, n, d_k)
        mask = _mask(now, n).expand(n, n)
        output, weights = scaled_dot_product_attention(q / now["temperature"], k, v, mask)
        assert weights is not None
        products = q[head] @ k[head].T
        scores = products / math.sqrt(q.shape[-1]) / now["temperature"]
        masked = [
            [score if allowed else None for score, allowed in zip(*rows, strict=True)]
            for rows in zip(scores.tolist(), mask.tolist(), strict=True)
        ]
        followed = (
            products[query].tolist(),
            scores[query].tolist(),
            masked[query],
            weights[head, query].tolist(),
        )
        d_k = q.shape[-1]
        tables = [
            {
                "name": f"What {words[query]} looks at",
                "columns": ["key", "q · k", "score", "after the mask", "weight"],
                "rows": [list(row) for row in zip(words, *followed, strict=True)],
            },
            {
                "name": "Shapes",
                "columns": ["tensor", "rows", "columns"],
                "rows": [["q", n, d_k], ["k", n, d_k], ["v", n, d_k], ["scores", n, n], ["weights", n, n],
                         ["output", n, d_k], ["output of all heads", *merge_heads(output[None])[0].shape]],
            },
            self._heads(now, weights, mask),
        ]  # fmt: skip
        channels = [f"channel {head * d_k + i}" for i in range(d_k)]
        if now["source"] == "own":
            vectors = word_vectors(words)
            columns = [f"channel {i}" for i in range(WIDTH)]
            tables.append(_matrix("Word vectors x", words, columns, vectors))
        tables += [
            _matrix(f"{title}, head {head}", words, channels, x[head].tolist())
            for title, x in zip(LETTERS.values(), (q, k, v), strict=True)
        ]
        tables += [
            _matrix("Scores", words, words, scores.tolist()),
            _matrix("After the mask", words, words, masked),
            _matrix("Weights", words, words, weights[head].tolist()),
            _matrix("Output", words, channels, output[head].tolist()),
        ]
        return tables

    def __repr__(self) -> str:
        """The words and the numbers; of a line of code without its large matrices."""
        if self.settings["source"] != "trained":
            return super().__repr__()
        return "\n\n".join([f"{self.title}\n{self.text()}", *map(_as_text, self.tables()[:3])])

    def _vectors(self, now: dict[str, Any]) -> tuple[list[str], dict[str, Tensor]]:
        """The tokens' names, and their queries, keys and values `(n, d_model)`."""
        if now["source"] == "trained":
            snippet = self.data["snippets"][min(now["snippet"], len(self.data["snippets"]) - 1)]
            layer = snippet["layers"][min(now["layer"], len(snippet["layers"])) - 1]
            names = [f"{at} {_visible(letter)}" for at, letter in enumerate(snippet["text"])]
            return names, {letter: _unpacked(layer[letter], len(names)) for letter in LETTERS}
        if now["source"] == "given":
            words = list[str](GIVEN["words"])
            vectors = {letter: torch.tensor(GIVEN[letter], dtype=torch.float64) for letter in LETTERS}
        else:
            words = _words(now["sentence"])
            x = torch.tensor(word_vectors(words), dtype=torch.float64)
            # Tenths times tenths: with whole numbers the hundredths come out exactly.
            vectors = {
                letter: (x * 10).round()
                @ (torch.tensor(self.data["matrices"][letter], dtype=torch.float64) * 10).round()
                / 100
                for letter in LETTERS
            }
        for letter, row, channel, value in now["edits"]:
            vectors[letter][row, channel] = value
        return words, vectors

    def _heads(self, now: dict[str, Any], weights: Tensor, mask: Tensor) -> Table:
        """Each head in numbers, as means over the queries that may look somewhere."""
        seen = mask.any(dim=-1)
        before = seen & (torch.arange(len(seen)) > 0)
        columns = ["head", "entropy (nats)", "weight on itself", "on the one before"]
        entropy = attention_entropy(weights)
        rows: list[list[Any]] = []
        for head, w in enumerate(weights):
            previous = torch.cat([w.new_zeros(1), w.diagonal(-1)])
            rows.append(
                [
                    f"head {head}",
                    _mean(entropy[head][seen]),
                    _mean(w.diagonal()[seen]),
                    _mean(previous[before]),
                ]
            )
        if now["source"] == "trained":
            snippet = self.data["snippets"][min(now["snippet"], len(self.data["snippets"]) - 1)]
            opened = torch.tensor(snippet["brackets"])
            inside = (opened >= 0).nonzero().flatten()
            columns += ["on the open bracket", "bracket is top", "queries in brackets"]
            for row, w in zip(rows, weights, strict=True):
                found = w[inside, opened[inside]]
                top = (found == w[inside].amax(dim=-1)) & (found > 0)
                row += [_mean(found), int(top.sum()), len(inside)]
        return {"name": "Each head", "columns": columns, "rows": rows}


def word_vectors(words: Sequence[str]) -> list[list[float]]:
    """A vector of tenths between -1 and 1 for each word, from its letters alone: equal words get equal vectors.

    Channel and letters go through the hash FNV-1a (32 bits, lower case, one step a character), and the sum is stirred
    once more; nothing is learned.
    """
    return [[_tenths(word.lower(), channel) / 10 for channel in range(WIDTH)] for word in words]


def _tenths(word: str, channel: int) -> int:
    h = 2166136261
    for code in (channel, *map(ord, word)):
        h = (h ^ code) * 16777619 % 2**32
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ h >> shift) * factor % 2**32
    return (h ^ h >> 16) % 21 - 10


def _matrices() -> dict[str, list[list[float]]]:
    """The three fixed matrices `(d_model, d_model)` of the reader's own words, in tenths."""
    drawn = 1.2 * torch.randn(3, WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    return {
        letter: [[round(x, 1) for x in row] for row in matrix.tolist()]
        for letter, matrix in zip(LETTERS, drawn, strict=True)
    }


@torch.no_grad()
def _stored(snippets: Sequence[str]) -> list[dict[str, Any]]:
    """Queries, keys and values of every layer of the trained model, and where its brackets were opened."""
    if not snippets:
        return []
    model: Any = load_model("language-model", chapter1.CharacterModel())
    found = []
    for text in snippets:
        tokens = encode(text)
        x = model.positions(model.embedding(tokens[None]))
        layers = []
        for block in model.blocks:
            seen = block.norm1(x)
            layers.append(
                {letter: _packed(getattr(block.attention, f"w_{letter}")(seen)[0]) for letter in LETTERS}
            )
            x, _ = block(x, is_causal=True)
        found.append({"text": text, "brackets": chapter1.opening_brackets(tokens).tolist(), "layers": layers})
    return found


def _packed(x: Tensor) -> str:
    """A matrix as 16-bit thousandths, little-endian, in base64."""
    return base64.b64encode((x * FINE).round().numpy().astype("<i2").tobytes()).decode()


def _unpacked(text: str, n: int) -> Tensor:
    numbers = np.frombuffer(base64.b64decode(text), dtype="<i2").astype(np.float64)
    return torch.from_numpy(numbers).view(n, -1) / FINE


def _mask(now: dict[str, Any], n: int) -> Tensor:
    """True where a query may look; broadcasts to `(n, n)`."""
    real = min(now["real"], n)
    if now["mask"] == "causal":
        return causal_mask(n)
    if now["mask"] == "padding":
        return padding_mask(torch.tensor([real]), n)[0, 0]
    if now["mask"] == "front":
        return causal_mask(n) & (torch.arange(n) >= n - real)
    if now["mask"] == "window":
        return sliding_window_mask(n, now["window"])
    return torch.ones(n, n, dtype=torch.bool)


def _words(sentence: str) -> list[str]:
    return [word for word in sentence.split(" ") if word]


def _visible(letter: str) -> str:
    return "·" if letter == " " else letter


def _matrix(name: str, rows: Sequence[str], columns: Sequence[str], values: list[list[Any]]) -> Table:
    return {
        "name": name,
        "columns": ["token", *columns],
        "rows": [[label, *row] for label, row in zip(rows, values, strict=True)],
    }


def _mean(x: Tensor) -> float | None:
    return x.mean().item() if len(x) else None


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)
