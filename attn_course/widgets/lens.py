"""The CNN attention lens of chapter 3: maps and gates of its trained networks, over two scenes and a photograph."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..analysis import attention_on_mask
from ..cnn import SelfAttention2D
from ..data import Clutter, cluttered_digits, photographs
from ..experiments import chapter3, load, load_model
from ..training import seeded
from ..transformer import scaled_dot_product_attention
from .figure import Figure, Table

RECORD = "cluttered-digits"
SCENES = {"five": 1, "three": 0}  # numbers of test scenes: one that all networks name, one that none does
PHOTOGRAPH = 48  # its side in pixels
CELLS = PHOTOGRAPH // 4  # the most rows and columns of a map of the third stage
USUAL = 500  # training scenes whose mean gates are shown beside a picture's own
FINE = 10**7  # attention weights are rounded to this part of 1, so that both sides agree on which are equal

NETWORKS = {
    "plain": "plain CNN",
    "se": "squeeze-and-excitation",
    "eca": "efficient channel attention",
    "cbam": "CBAM",
    "self-attention": "self-attention",
}
MAPS = {
    "gate": "spatial gate",
    "place": "attention of the marked place",
    "received": "attention received",
    "features": "size of the features",
}
WHEN = ("before", "after")
ON_DIGIT = ("share", "chance", "hit", "above")
CHOICES = {
    "picture": (*SCENES, "photograph"),
    "network": tuple(NETWORKS),
    "map": ("own", "received", "features"),
}
RANGES = {"stage": (1, 3), "overlay": (0, 100), "row": (0, CELLS - 1), "column": (0, CELLS - 1)}


class CNNAttentionLens(Figure):
    """What the modules of chapter 3's networks do at each stage, before and after training, laid over the picture.

    The networks are the recorded ones of seed 0; *before* are the same seed's weights as they were made. In eval mode
    both: an untrained batch normalisation then passes its input on. The photograph is taken to mean 0 and spread 1 by
    itself, the scenes as in training.

    Args:
        scenes: `data.cluttered_digits()`, if you have it at hand; making it takes a second.
        settings: where the controls begin: ``picture`` (``five``, ``three``, ``photograph``), ``network``,
            ``stage`` (1 to 3), ``map`` (``own``: the module's, where it has one; ``received``: the attention that each
            place receives, in self-attention; ``features``), ``trained``, ``overlay`` (percent), ``stretch`` (colours
            from the least to the largest), ``row`` and ``column`` (of the place followed), ``sort`` (gates by size).

    Raises:
        FileNotFoundError: the trained networks are not there.
        ValueError: there is no such control, or it cannot stand there.
    """

    name = "lens"
    title = "CNN attention lens: where the modules look, and whether the digit is there"

    def __init__(self, scenes: Clutter | None = None, **settings: Any) -> None:
        begin = {
            "picture": "five",
            "network": "cbam",
            "stage": 1,
            "map": "own",
            "trained": True,
            "overlay": 75,
            "stretch": False,
            "row": 5,
            "column": 3,
            "sort": False,
        }
        super().__init__(_data(scenes or cluttered_digits()), begin)
        self._settings = self._checked(settings)

    def _checked(self, settings: dict[str, Any]) -> dict[str, Any]:
        now = super()._checked(settings)
        for name, known in CHOICES.items():
            if now[name] not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {now[name]!r}")
        for name, (low, high) in RANGES.items():
            if now[name] not in range(low, high + 1):
                raise ValueError(f"{name} must be a whole number from {low} to {high}, got {now[name]!r}")
        for name in ("trained", "stretch", "sort"):
            if not isinstance(now[name], bool):
                raise ValueError(f"{name} must be True or False, got {now[name]!r}")
        return now

    def text(self) -> str:
        return (
            "A picture, and over it what a network's module does at each place: CBAM's spatial gate, self-attention's "
            "weights, or, where a module has no map, the size of the features. Where the digit's ink is, is known, so "
            "each map can be judged: how often has a pixel on the digit more than one elsewhere? Dots give that for "
            "every network before and after training, lines for maps that know nothing of a network. Bars are the "
            "gates of the channels. The photograph has no answer: the networks have never seen one."
        )

    def tables(self, **settings: Any) -> list[Table]:
        now = self._checked(settings)
        stage, picture = now["stage"] - 1, self.data["pictures"][now["picture"]]
        size = tuple(picture["image"]["size"])
        kind = shown_map(now)
        found = {when: self._map(now, now["network"], when, kind, size) for when in WHEN}
        chosen = found[WHEN[now["trained"]]]
        tables = [
            {
                "name": "The map",
                "columns": [MAPS[kind], "least", "mean", "largest", "largest at row", "at column"],
                "rows": [[f"{when} training", *_summary(found[when])] for when in WHEN],
            }
        ]
        if picture["mask"]:
            mask = torch.tensor([[pixel == "1" for pixel in row] for row in picture["mask"]])
            known = {"centre prior": _values(self.data["prior"]), "ink": _values(picture["image"])}
            maps = {f"{when} training": found[when] for when in WHEN} | known
            tables.append(
                {
                    "name": "On the digit",
                    "columns": ["map", *ON_DIGIT],
                    "rows": [[name, *_judged(values, mask)] for name, values in maps.items()],
                }
            )
            rows = []
            for network, about in NETWORKS.items():
                for one in maps_at(network, now["stage"]):
                    pair = [_judged(self._map(now, network, when, one, size), mask)[-1] for when in WHEN]
                    rows.append([f"{about}: {MAPS[one]}", *pair])
            columns = ["map", *(f"above, {when} training" for when in WHEN)]
            tables.append({"name": "All maps here", "columns": columns, "rows": rows})
        tables.append(self._answers(now))
        gates = [self.data["maps"][now["picture"]][now["network"]][when].get("gates") for when in WHEN]
        if gates[0]:
            usual = [self.data["usual"][now["network"]][when][stage] for when in WHEN]
            tables += _gates([gate[stage] for gate in gates], usual)
        side = size[0] // 4
        parts = F.avg_pool2d(chosen[None], side)[0].tolist()
        tables.append(
            {
                "name": "The map that is shown, in 4 × 4 parts",
                "columns": ["part", "left", "middle left", "middle right", "right"],
                "rows": [
                    [name, *row]
                    for name, row in zip(
                        ("top", "upper middle", "lower middle", "bottom"), parts, strict=True
                    )
                ],
            }
        )
        return tables

    def _map(self, now: dict[str, Any], network: str, when: str, kind: str, size: Any) -> Tensor:
        """One map at the size of the picture, as the chapter judges it (bilinear)."""
        stored = self.data["maps"][now["picture"]][network][when]
        if kind in ("gate", "features"):
            return _values(stored[kind][now["stage"] - 1], size)
        query, key = (_values(stored[name]) for name in ("query", "key"))
        # The module does not scale its scores, the package's function divides by √d_k.
        _, weights = scaled_dot_product_attention(query * math.sqrt(query.shape[1]), key, key)
        assert weights is not None  # they are needed unless one says otherwise
        levels, rows = (weights * FINE).round(), size[0] // 4
        if kind == "received":
            return _enlarged(levels.sum(dim=0).view(rows, rows), size) / (FINE * len(levels))
        place = min(now["row"], rows - 1) * rows + min(now["column"], rows - 1)
        return _enlarged(levels[place].view(rows, rows), size) / FINE

    def _answers(self, now: dict[str, Any]) -> Table:
        about, stored = (
            self.data["networks"][now["network"]],
            self.data["maps"][now["picture"]][now["network"]],
        )
        rows = []
        for when in WHEN:
            recorded = [about[key] if when == "after" else None for key in ("accuracy", "fixed")]
            gamma = 0.0 if about["gamma"] is not None and when == "before" else about["gamma"]
            rows.append(
                [f"{when} training", stored[when]["answer"], stored[when]["probability"], *recorded, gamma]
            )
        columns = [
            "network",
            "names",
            "probability",
            "accuracy, 1,000 scenes",
            "with fixed attention",
            "gamma",
        ]
        return {"name": "The answer", "columns": columns, "rows": rows}


def shown_map(now: dict[str, Any]) -> str:
    """Which map is shown at these settings: a module without the map that is wished for shows its features."""
    has = maps_at(now["network"], now["stage"])
    wish = {"own": "gate" if "gate" in has else "place", "received": "received", "features": "features"}[
        now["map"]
    ]
    return wish if wish in has or (wish == "place" and "received" in has) else "features"


def maps_at(network: str, stage: int) -> list[str]:
    """The maps of a network at a stage that do not depend on a place."""
    if network == "cbam":
        return ["gate", "features"]
    return ["received", "features"] if network == "self-attention" and stage == 3 else ["features"]


# --- The numbers of a map ------------------------------------------------------------------------------


def _summary(values: Tensor) -> list[float]:
    row, column = (values == values.max()).nonzero()[0].tolist()
    return [values.min().item(), values.mean().item(), values.max().item(), row, column]


def _judged(values: Tensor, mask: Tensor) -> list[float]:
    judged = attention_on_mask(values[None], mask[None])
    return [judged[name].item() for name in ON_DIGIT]


def _gates(gates: list[list[float]], usual: list[list[float]]) -> list[Table]:
    """Tables of the channels' gates, before and after training, and how far they are from the usual ones."""
    short = []
    for when, own, mean in zip(WHEN, gates, usual, strict=True):
        off = sum(abs(a - b) for a, b in zip(own, mean, strict=True)) / len(own)
        short.append([f"{when} training", min(own), sum(own) / len(own), max(own), off])
    return [
        {
            "name": "Channel gates",
            "columns": ["gates", "least", "mean", "largest", "from the usual"],
            "rows": short,
        },
        {
            "name": "Gate of each channel",
            "columns": ["channel", "before", "usual before", "after", "usual after"],
            "rows": [
                list(row)
                for row in zip(range(len(gates[0])), gates[0], usual[0], gates[1], usual[1], strict=True)
            ],
        },
    ]


def _enlarged(levels: Tensor, size: Any) -> Tensor:
    """A map of whole numbers at the picture's size: quarters and eighths of them, so that no digit is lost."""
    return F.interpolate(levels[None, None], size, mode="bilinear")[0, 0]


# --- What is stored ------------------------------------------------------------------------------------


def _stored(values: Tensor, bits: int = 8) -> dict[str, Any]:
    """A matrix as ``low + step · level``, with levels of 8 or 16 bits in base64."""
    low = float(f"{values.min().item():.6g}")
    step = float(f"{(values.max().item() - low) / (2**bits - 1):.6g}")
    levels = ((values.double() - low) / step if step > 0 else values * 0).round().clamp(0, 2**bits - 1)
    packed = levels.numpy().astype(f"<u{bits // 8}").tobytes()
    return {
        "size": list(values.shape),
        "low": low,
        "step": step,
        "bits": bits,
        "levels": base64.b64encode(packed).decode(),
    }


def _values(stored: dict[str, Any], size: Any = None) -> Tensor:
    """The matrix of `_stored`, float64; at another size if one is given."""
    levels = np.frombuffer(base64.b64decode(stored["levels"]), f"<u{stored['bits'] // 8}")
    table = torch.from_numpy(levels.astype(np.float64)).view(stored["size"])
    return stored["low"] + stored["step"] * (table if size is None else _enlarged(table, size))


def _data(scenes: Clutter) -> dict[str, Any]:
    kept = nn.ModuleDict({name: chapter3.build(name) for name in NETWORKS})
    load_model(RECORD, kept)
    record = load(RECORD).runs[0]
    photograph = photographs((PHOTOGRAPH, PHOTOGRAPH))["flower"].mean(dim=0)
    pictures: dict[str, dict[str, Any]] = {
        name: {
            "image": _stored(scenes.test.images[number, 0]),
            "label": int(scenes.test.labels[number]),
            "mask": [
                "".join("01"[pixel] for pixel in row) for row in scenes.test.masks[number].int().tolist()
            ],
        }
        for name, number in SCENES.items()
    }
    about_it = "Photograph: flower, by vultilion, CC BY 2.0"
    pictures["photograph"] = {"image": _stored(photograph), "label": None, "mask": None, "about": about_it}
    inputs = {name: scenes.test.images[[number]] for name, number in SCENES.items()}
    maps: dict[str, Any] = {name: {} for name in pictures}
    usual: dict[str, Any] = {}
    about = {}
    for name in NETWORKS:
        pair = dict(zip(WHEN, (_initial(name, record["seed"]), kept[name]), strict=True))
        recorded = record["equal_training"][name]
        about[name] = {
            "accuracy": recorded["accuracy"],
            "fixed": recorded["fixed_accuracy"] if name != "plain" else None,
            "gamma": recorded.get("gamma"),
        }
        own = (photograph - photograph.mean()) / photograph.std()
        taken = {key: chapter3.prepared(pair["after"], x, scenes.train.images) for key, x in inputs.items()}
        taken["photograph"] = own[None, None]
        for key, x in taken.items():
            maps[key][name] = {when: _looked(network, x) for when, network in pair.items()}
        if "gates" in maps["five"][name]["after"]:
            many = chapter3.prepared(pair["after"], scenes.train.images[:USUAL], scenes.train.images)
            usual[name] = {when: _gate_lists(network, many) for when, network in pair.items()}
    prior = scenes.train.masks.float().mean(dim=0)
    return {
        "pictures": pictures,
        "prior": _stored(prior),
        "networks": about,
        "maps": maps,
        "usual": usual,
        "usual_count": USUAL,
    }


def _initial(name: str, seed: int) -> nn.Module:
    """The network as `train_classifier` makes it from this seed, before its first step."""
    with seeded(seed):
        return chapter3.build(name).eval()


def _looked(network: nn.Module, x: Tensor) -> dict[str, Any]:
    """All that is kept of one network and one picture ``(1, 1, H, W)``."""
    with torch.no_grad(), _noted(network) as seen:
        logits, weights = network(x, need_weights=True)
    probability, answer = logits.softmax(dim=1)[0].max(dim=0)
    found: dict[str, Any] = {
        "answer": int(answer),
        "probability": round(float(probability), 4),
        "features": [_stored(seen[stage][0].abs().mean(dim=0)) for stage in range(3)],
    }
    if any(isinstance(entry, tuple) for entry in weights.values()):
        found["gate"] = [_stored(weights[stage][1][0, 0], bits=16) for stage in range(3)]
    if "query" in seen:
        found |= {name: _stored(seen[name][0].flatten(1).T, bits=16) for name in ("query", "key")}
    elif weights:
        found["gates"] = _mean_gates(weights)
    return found


def _gate_lists(network: nn.Module, x: Tensor) -> list[list[float]]:
    """The channels' gates at each stage, their mean over pictures ``(N, 1, H, W)``."""
    with torch.no_grad():
        return _mean_gates(network(x, need_weights=True)[1])


def _mean_gates(weights: dict[int, Any]) -> list[list[float]]:
    gates = (entry[0] if isinstance(entry, tuple) else entry for _, entry in sorted(weights.items()))
    return [[round(value, 4) for value in gate.mean(dim=0).flatten().tolist()] for gate in gates]


@contextmanager
def _noted(network: nn.Module) -> Iterator[dict[Any, Tensor]]:
    """What a `SmallCNN` lets through at each stage (0, 1, 2), and its queries and keys, as it passes."""
    seen: dict[Any, Tensor] = {}

    def note(name: Any) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output  # of attention: the map, the weights
            seen[name] = output.relu() if isinstance(module, nn.BatchNorm2d) else output

        return hook

    handles: list[Any] = []
    modules: dict[str, Any] = dict(network.named_modules())
    for stage in range(3):
        last = modules.get(f"attentions.{stage}", modules[f"norms.{stage}"])
        handles.append(last.register_forward_hook(note(stage)))
        if isinstance(last, SelfAttention2D):
            handles.append(last.query_conv.register_forward_hook(note("query")))
            handles.append(last.key_conv.register_forward_hook(note("key")))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
