"""One small training loop for every experiment: seed in, history out."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm


def best_device() -> torch.device:
    """The accelerator where there is one (CUDA, then Apple's MPS), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block from ``seed`` and leave torch's global generators as they were found."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@dataclass
class History:
    """What a training run did: ``losses`` by step, ``measures`` by name as ``(step, value)``, ``seconds``."""

    losses: list[float] = field(default_factory=list)
    measures: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False


def train(
    model: nn.Module,
    loss: Callable[[nn.Module, torch.Generator], Tensor],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    warmup_steps: int = 50,
    weight_decay: float = 0.01,
    measure: Callable[[nn.Module], dict[str, float]] | None = None,
    measure_every: int = 100,
    description: str = "training",
) -> History:
    """Train ``model`` in place with AdamW, a linear warm-up and a cosine to zero.

    ``loss(model, generator)`` draws a batch with the generator (a CPU generator, seeded with ``seed``) and returns a
    scalar. ``measure(model)`` is called in eval mode without gradients every ``measure_every`` steps and at the end.
    An interrupt (the notebook's stop button, Ctrl-C) ends the run cleanly: the history so far is returned and says so.

    Raises:
        ValueError: ``steps`` below 1, or a learning rate that is not positive.
    """
    if steps < 1 or learning_rate <= 0:
        raise ValueError(f"expected steps >= 1 and learning_rate > 0, got {steps} and {learning_rate}")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    warmup_steps = min(warmup_steps, steps)

    def rate(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    history = History()

    def take_measures(step: int) -> dict[str, float]:
        if measure is None:
            return {}
        was_training = model.training
        model.eval()
        with torch.no_grad():
            measures = measure(model)
        model.train(was_training)
        for name, value in measures.items():
            history.measures.setdefault(name, []).append((step, float(value)))
        return measures

    model.train()
    start = time.perf_counter()
    progress: Any = tqdm(range(steps), desc=description, unit="step", leave=False, mininterval=1.0)
    try:
        for step in progress:
            if step % measure_every == 0:
                progress.set_postfix({k: f"{v:.2f}" for k, v in take_measures(step).items()})
            value = loss(model, generator)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            history.losses.append(value.item())
    except KeyboardInterrupt:
        history.interrupted = True
    finally:
        progress.close()
    take_measures(len(history.losses))
    model.eval()
    history.seconds = time.perf_counter() - start
    return history
