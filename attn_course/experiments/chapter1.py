"""Chapter 1: a small causal transformer reads the source code of Python's standard library."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import VOCABULARY_SIZE, encode, standard_library
from ..positional import PositionalEncoding
from ..training import History, best_device, seeded, train
from ..transformer import TransformerBlock
from .core import Experiment

SETTINGS: dict[str, Any] = {
    "d_model": 64,
    "num_heads": 4,
    "num_layers": 2,
    "length": 64,
    "batch_size": 32,
    "steps": 1000,
    "learning_rate": 0.012,
}


class CharacterModel(nn.Module):
    """A causal transformer that predicts the next character: embedding, positions, pre-norm blocks, read-out.

    ``tokens (B, n)`` int64 → logits ``(B, n, VOCABULARY_SIZE)``, and the weights ``(B, h, n, n)`` of each layer if
    they are asked for, else an empty list.
    """

    def __init__(
        self, d_model: int = 64, num_heads: int = 4, num_layers: int = 2, max_len: int = 256
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY_SIZE, d_model)
        nn.init.normal_(self.embedding.weight, std=2**-0.5)  # as large as the sinusoids of the positions
        self.positions = PositionalEncoding(d_model, max_len)
        self.blocks = nn.ModuleList(
            TransformerBlock(d_model, num_heads, 4 * d_model, dropout=0.0, norm_first=True)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.read_out = nn.Linear(d_model, VOCABULARY_SIZE)

    def forward(self, tokens: Tensor, *, need_weights: bool = False) -> tuple[Tensor, list[Tensor]]:
        x = self.positions(self.embedding(tokens))
        weights = []
        for block in self.blocks:
            x, block_weights = block(x, is_causal=True, need_weights=need_weights)
            if need_weights:
                weights.append(block_weights)
        return self.read_out(self.norm(x)), weights


def windows(text: Tensor, length: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``count`` random pieces of a text ``(characters,)``: inputs and next characters, each ``(count, length)``."""
    start = torch.randint(len(text) - length, (count, 1), generator=generator)
    pieces = text[start + torch.arange(length + 1)]
    return pieces[:, :-1], pieces[:, 1:]


def bits_per_character(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Mean of ``-log2 p(next character)`` over ``inputs, targets (B, n)``."""
    logits, _ = model(inputs)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item() / math.log(2)


def train_character_model(
    seed: int, *, steps: int, length: int, batch_size: int, learning_rate: float, **sizes: int
) -> tuple[CharacterModel, History]:
    """Train one model on the standard library; the history has bits per character on the test modules."""
    text = standard_library()
    device = best_device()
    test_inputs, test_targets = (x.to(device) for x in test_windows(text.test, length))
    with seeded(seed):
        model = CharacterModel(**sizes).to(device)

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        inputs, targets = windows(text.train, length, batch_size, generator)
        logits, _ = model(inputs.to(device))
        return F.cross_entropy(logits.flatten(0, 1), targets.to(device).flatten())

    history = train(
        model, loss, steps=steps, learning_rate=learning_rate, seed=seed, description=f"seed {seed}",
        measure=lambda model: {"bits": bits_per_character(model, test_inputs, test_targets)},
    )  # fmt: skip
    return model, history


def test_windows(text: Tensor, length: int, count: int = 256) -> tuple[Tensor, Tensor]:
    """The same random pieces of the test text for every seed and model."""
    return windows(text, length, count, torch.Generator().manual_seed(20170612))


test_windows.__test__ = False  # type: ignore[attr-defined]  # no test, whatever its name suggests to pytest


def baselines(train_text: Tensor, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Bits per character of counting: how often a character is (unigram), and how often after another (bigram).

    Both count on ``train_text``; a pair is smoothed with ten characters' worth of the unigram's frequencies.
    """
    single = torch.bincount(train_text, minlength=VOCABULARY_SIZE).double() + 1
    single /= single.sum()
    pairs = torch.bincount(train_text[:-1] * VOCABULARY_SIZE + train_text[1:], minlength=VOCABULARY_SIZE**2)
    pairs = pairs.view(VOCABULARY_SIZE, VOCABULARY_SIZE).double() + 10 * single
    pairs /= pairs.sum(dim=1, keepdim=True)
    return {
        "unigram": -single[targets].log2().mean().item(),
        "bigram": -pairs[inputs, targets].log2().mean().item(),
    }


def opening_brackets(tokens: Tensor) -> Tensor:
    """Where the innermost bracket that is open at each position was opened: ``(n,)`` int64, -1 outside.

    Only ``(`` and ``)`` count. A position is inside after its ``(`` and before its ``)``.
    """
    opening, closing = encode("()").tolist()
    inside: list[int] = []
    stack: list[int] = []
    for position, token in enumerate(tokens.tolist()):
        if token == closing and stack:
            stack.pop()
        inside.append(stack[-1] if stack else -1)
        if token == opening:
            stack.append(position)
    return torch.tensor(inside, dtype=torch.long)


def head_habits(weights: list[Tensor], tokens: Tensor) -> list[dict[str, float]]:
    """How much each head looks at the previous character, and at the bracket that is open.

    Per head, over all queries where the question makes sense: the mean weight on that key (``*_weight``), and how
    often it is the key with the most weight (``*_top``). Two controls say what would come out by chance: an even
    spread over what a query may see (``*_even``), and, for the bracket, the head's own mean weight at the same
    distance, whatever stands there (``bracket_same_distance``).

    Args:
        weights: one ``(B, h, n, n)`` for each layer.
        tokens: ``(B, n)``.
    """
    n = tokens.shape[1]
    brackets = torch.stack([opening_brackets(row) for row in tokens.cpu()])
    query = torch.arange(n).expand_as(brackets)
    asked = (brackets >= 0) & (query - brackets >= 2)  # nearer than that it is the previous character too
    rows, queries = asked.nonzero(as_tuple=True)
    keys = brackets[rows, queries]
    habits = []
    for layer, layer_weights in enumerate(weights):
        for head, w in enumerate(layer_weights.transpose(0, 1).cpu()):
            top = w.argmax(dim=-1)
            by_distance = torch.stack([w.diagonal(-distance, 1, 2).mean() for distance in range(n)])
            habits.append(
                {
                    "layer": layer,
                    "head": head,
                    "previous_weight": w.diagonal(-1, 1, 2).mean().item(),
                    "previous_top": (top[:, 1:] == torch.arange(n - 1)).float().mean().item(),
                    "previous_even": (1 / torch.arange(2, n + 1)).mean().item(),
                    "bracket_weight": w[rows, queries, keys].mean().item(),
                    "bracket_top": (top[rows, queries] == keys).float().mean().item(),
                    "bracket_even": (1 / (queries + 1)).mean().item(),
                    "bracket_same_distance": by_distance[queries - keys].mean().item(),
                    "bracket_queries": len(keys),
                }
            )
    return habits


def run_language_model(seed: int, **settings: Any) -> tuple[dict[str, Any], nn.Module]:
    model, history = train_character_model(seed, **settings)
    if history.interrupted:
        raise KeyboardInterrupt
    text = standard_library()
    inputs, targets = test_windows(text.test, settings["length"])
    with torch.no_grad():
        _, weights = model(inputs.to(next(model.parameters()).device), need_weights=True)
    outcome = {
        "bits": history.measures["bits"][-1][1],
        "curve": history.measures["bits"],
        "baselines": baselines(text.train, inputs, targets),
        "heads": head_habits(weights, inputs),
        "text_sha256": text.sha256,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return outcome, model


EXPERIMENTS = (
    Experiment(
        name="language-model",
        hypothesis="A causal transformer that can look back predicts the next character better than counting pairs.",
        run=run_language_model,
        settings=SETTINGS,
    ),
)
