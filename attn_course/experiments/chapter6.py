"""Chapter 6: what a window loses, asked of networks that have to hear of one token from far away."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..positional import PositionalEncoding
from ..training import History, best_device, seeded, train
from ..transformer import TransformerBlock
from ..window import sliding_window_mask
from .core import Experiment

LETTERS = 8
"""Size of the alphabet; chance is one in so many."""

TEST_SEED = 20260601
"""Of the sequences that every model is tested on."""


def marked_letter(
    count: int, length: int, generator: torch.Generator, *, place: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Random letters, one of them marked; the answer at every position is the letter that is marked.

    The marked letter ``a`` is the token ``LETTERS + a``, a kind of its own. It stands at ``place``, int64
    ``(count,)``, or at random. Nothing else in the sequence helps, and all positions need the same one token.

    Returns:
        ``tokens``, int64 ``(count, length)``; ``letter``, int64 ``(count,)``, the answer; and ``place``.
    """
    tokens = torch.randint(LETTERS, (count, length), generator=generator)
    if place is None:
        place = torch.randint(length, (count,), generator=generator)
    rows = torch.arange(count)
    letter = tokens[rows, place]
    tokens[rows, place] = LETTERS + letter
    return tokens, letter, place


def letters_back(count: int, length: int, generator: torch.Generator, *, back: int) -> tuple[Tensor, Tensor]:
    """Random letters; the answer at each position is the letter ``back`` places before: each needs another token.

    Returns:
        ``tokens`` and ``targets``, int64 ``(count, length)``. The first ``back`` targets mean nothing.
    """
    tokens = torch.randint(LETTERS, (count, length), generator=generator)
    return tokens, tokens.roll(back, dims=1)


class WindowTagger(nn.Module):
    """A transformer that answers at every position, each layer with the same window.

    ``tokens (B, n)`` int64 → logits ``(B, n, LETTERS)``. ``window`` is the reach on each side; None is full attention.
    The window is a mask here: what is to be seen is what it loses, not how fast it is.
    """

    def __init__(
        self,
        window: int | None,
        num_layers: int,
        *,
        d_model: int = 64,
        num_heads: int = 4,
        max_len: int = 64,
    ) -> None:
        super().__init__()
        self.window = window
        self.embedding = nn.Embedding(2 * LETTERS, d_model)
        nn.init.normal_(self.embedding.weight, std=2**-0.5)  # as large as the sinusoids of the positions
        self.positions = PositionalEncoding(d_model, max_len)
        self.blocks = nn.ModuleList(
            TransformerBlock(d_model, num_heads, 4 * d_model, dropout=0.0, norm_first=True)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.read_out = nn.Linear(d_model, LETTERS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.positions(self.embedding(tokens))
        mask = None
        if self.window is not None:
            mask = sliding_window_mask(tokens.shape[1], self.window, device=tokens.device)
        for block in self.blocks:
            x, _ = block(x, mask, need_weights=False)
        return self.read_out(self.norm(x))


def reach(window: int | None, num_layers: int, length: int) -> int:
    """How far a token can be heard of through so many layers: each passes on what the one below has gathered."""
    return length - 1 if window is None else min(num_layers * window, length - 1)


def model_name(window: int | None, num_layers: int) -> str:
    layers = f"{num_layers} layer{'s' if num_layers > 1 else ''}"
    return f"{'full attention' if window is None else f'window {window}'}, {layers}"


def accuracy_by_distance(
    model: nn.Module, length: int, *, count: int = 2048, chunk: int = 256
) -> dict[str, float]:
    """The share of right answers among all positions that stand so many places from the marked letter.

    The same sequences for every model. The mark stands at each place equally often, so that the largest distance is
    asked of as well (twice in ``length`` sequences).
    """
    generator = torch.Generator().manual_seed(TEST_SEED)
    tokens, letter, place = marked_letter(count, length, generator, place=torch.arange(count) % length)
    right = _guesses(model, tokens, chunk) == letter[:, None]
    distance = (torch.arange(length) - place[:, None]).abs()
    asked = distance.flatten().bincount(minlength=length).tolist()
    hits = distance[right].bincount(minlength=length).tolist()
    return {str(d): round(hits[d] / asked[d], 4) for d in range(length) if asked[d]}


def accuracy_back(model: nn.Module, length: int, *, back: int, count: int = 256) -> float:
    """The share of right answers where a letter stands ``back`` places before."""
    tokens, targets = letters_back(count, length, torch.Generator().manual_seed(TEST_SEED), back=back)
    return round((_guesses(model, tokens) == targets)[:, back:].float().mean().item(), 4)


def _guesses(model: nn.Module, tokens: Tensor, chunk: int = 256) -> Tensor:
    device = next(model.parameters()).device
    with torch.no_grad():
        return torch.cat([model(part.to(device)).argmax(dim=-1).cpu() for part in tokens.split(chunk)])


def train_window_tagger(
    window: int | None,
    num_layers: int,
    seed: int,
    *,
    length: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    back: int | None = None,
    measure_every: int = 100,
    **sizes: int,
) -> tuple[WindowTagger, History]:
    """Train one model on fresh sequences, at every position: to name the marked letter, or the one ``back`` places
    before, of which the history has the accuracy."""
    device = best_device()
    with seeded(seed):
        model = WindowTagger(window, num_layers, max_len=length, **sizes).to(device)

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        if back is None:
            tokens, letter, _ = marked_letter(batch_size, length, generator)
            targets, first = letter[:, None].expand(-1, length), 0
        else:
            tokens, targets = letters_back(batch_size, length, generator, back=back)
            first = back
        logits = model(tokens.to(device))[:, first:]
        return F.cross_entropy(logits.flatten(0, 1), targets[:, first:].flatten().to(device))

    history = train(
        model, loss, steps=steps, learning_rate=learning_rate, seed=seed, measure_every=measure_every,
        measure=None if back is None else lambda m: {"accuracy": accuracy_back(m, length, back=back, count=32)},
        description=f"{model_name(window, num_layers)}, seed {seed}",
    )  # fmt: skip
    return model, history


def run_far_token(
    seed: int,
    *,
    models: Sequence[tuple[int | None, int]],
    steps: int,
    back: int,
    back_models: Sequence[tuple[int | None, int]],
    back_steps: int,
    length: int,
    **training: Any,
) -> tuple[dict[str, Any], None]:
    """The marked letter with every one of ``models``, the letter ``back`` places before with ``back_models``.

    Models are pairs of window and layers, a window of None is full attention.

    Returns:
        - ``accuracy``: for each model, by its name, the share of right answers by the distance of the marked letter;
        - ``accuracy_back``: for each model the share of right answers to the other task;
        - ``curve_back``: that share while it was trained, as pairs of step and share;
        - ``parameters``: for each model;
        - ``training_seconds``: for each model, in ``marked`` and ``back``.
    """
    outcome: dict[str, Any] = {"accuracy": {}, "accuracy_back": {}, "curve_back": {}, "parameters": {}}
    taken: dict[str, dict[str, float]] = {"marked": {}, "back": {}}
    tasks = [(None, steps, pair) for pair in models] + [(back, back_steps, pair) for pair in back_models]
    for places, count, (window, num_layers) in tasks:
        name = model_name(window, num_layers)
        model, history = train_window_tagger(
            window, num_layers, seed, length=length, steps=count, back=places, **training
        )
        if history.interrupted:
            raise KeyboardInterrupt
        outcome["parameters"][name] = sum(p.numel() for p in model.parameters())
        taken["marked" if places is None else "back"][name] = round(history.seconds, 1)
        if places is None:
            outcome["accuracy"][name] = accuracy_by_distance(model, length)
        else:
            outcome["accuracy_back"][name] = accuracy_back(model, length, back=places)
            outcome["curve_back"][name] = [[at, round(a, 4)] for at, a in history.measures["accuracy"]]
    return {**outcome, "training_seconds": taken}, None


LIVE: dict[str, Any] = {
    "models": [[None, 1], [8, 1], [8, 2]],
    "length": 64,
    "steps": 150,
    "batch_size": 32,
    "learning_rate": 0.003,
}
"""What ``far_token_live`` trains."""


def far_token_live(seed: int = 0, **changes: Any) -> dict[str, dict[str, float]]:
    """A small part of the experiment, here and now: model name -> distance -> accuracy. ``changes`` are to `LIVE`."""
    settings = {**LIVE, **changes}
    found = {}
    for window, num_layers in settings.pop("models"):
        model, _ = train_window_tagger(window, num_layers, seed, **settings)
        found[model_name(window, num_layers)] = accuracy_by_distance(model, settings["length"], count=512)
    return found


EXPERIMENTS = (
    Experiment(
        name="far-token",
        hypothesis="A network whose layers have windows is as right as full attention about a token up to layers × "
        "reach places away, and at chance beyond: with one token that all positions need, and just so with a token of "
        "its own for each position.",
        run=run_far_token,
        settings={
            "models": [[window, layers] for window in (None, 4, 8, 16) for layers in (1, 2, 3)],
            "steps": 300,
            "back": 12,
            "back_models": [[None, 1], [12, 1], [8, 1], [6, 2], [8, 2], [4, 3], [6, 3], [8, 3]],
            "back_steps": 600,
            "length": 64,
            "batch_size": 32,
            "learning_rate": 0.003,
        },
    ),
)
