"""What there is to choose from: each mechanism as a layer with its reach, its price and its measured accuracy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from attn_course import cnn, complexity
from attn_course.complexity import Cost
from attn_course.hybrid import HybridAttentionModel
from attn_course.machine import results_folder
from attn_course.transformer import KeyValueCache, MultiHeadAttention, merge_heads, split_heads
from attn_course.window import sliding_window_attention

__all__ = ["Candidate", "Price", "candidates"]

WINDOW = 128  # the window that is meant where no reach is asked for
_WRITING = "writing a token"
CLASSES = 10  # of whole networks
_FLOAT = 4


@dataclass(frozen=True)
class Price:
    """What a layer takes for a whole batch, in inference or in training.

    Attributes:
        flops: matrix products and convolutions.
        bytes_moved: least bytes from and to memory.
        peak_bytes: most bytes alive at one moment, on top of inputs and parameters.
        needs_bytes: the same where the model is compiled or exported: `SelfAttention2D`, which otherwise makes its map
            in pieces, then holds scores and weights whole.
    """

    flops: int
    bytes_moved: int
    peak_bytes: int
    needs_bytes: int


@dataclass(frozen=True)
class Candidate:
    """A mechanism that may be recommended, at the sizes of one question.

    Attributes:
        type: what it is called.
        implementation: its name in `attn_course`.
        kind: what its times are kept under; `type` for most.
        text: what it does, in words.
        reach: how many places apart two may be that look at each other in one layer.
        everything: whether every place reaches every other.
        price: what it takes.
        make: makes the layer on a device: what is called, its inputs, and its modules.
        options: arguments with which the implementation is this candidate.
        accuracy: the measured one, on the recorded task that asks for the reach in question; None where none is.
        accuracy_source: which file says so, and where in it.
    """

    type: str
    implementation: str
    kind: str
    text: str
    reach: int
    everything: bool
    price: Price
    make: Callable[[torch.device], tuple[Callable[..., Any], tuple[Tensor, ...], list[nn.Module]]]
    options: dict[str, Any] = field(default_factory=dict)
    accuracy: float | None = None
    accuracy_source: dict[str, str] | None = None

    def call(self, device: torch.device | str = "cpu", *, training: bool = False) -> Callable[[], object]:
        """What runs the layer once: a forward pass in inference, or forward and backward."""
        function, inputs, modules = self.make(torch.device(device))
        for module in modules:
            module.train(training)

        def forward() -> object:
            with torch.no_grad():
                return function(*inputs)

        if not training:
            return forward
        gradient = torch.ones_like(function(*inputs))

        def step() -> object:
            entries = [x.detach().requires_grad_() for x in inputs]
            output = function(*entries)
            output.backward(gradient)
            for module in modules:
                module.zero_grad()
            return output.detach(), [entry.grad for entry in entries]

        return step


def candidates(
    data_type: str,
    *,
    length: int,
    height: int,
    width: int,
    channels: int,
    batch: int,
    training: bool,
    generation: bool,
    reach: int | None,
) -> list[Candidate]:
    """All candidates for a kind of data.

    Args:
        data_type: `"sequential"`, `"spatial"` or `"mixed"`.
        length: tokens of a sequence; for mixed data, frames.
        height: of the map or image.
        width: of the map or image.
        channels: `d_model` of a sequence, `C` of a map.
        batch: inputs at a time.
        training: whether the backward pass counts too.
        generation: causal; in inference, the price is that of one token that is written with a cache.
        reach: how far apart two places are that must look at each other; None where that is left open.
    """
    if data_type == "sequential":
        found: Iterable[Candidate] = _for_sequences(length, channels, batch, training, generation, reach)
    elif data_type == "spatial":
        found = _for_maps(height, width, channels, batch, training, reach)
    else:
        found = _for_images(height, width, batch * length, training)
    return list(found)


# --- Sequences ---------------------------------------------------------------------------------------------


def heads_of(width: int) -> int:
    """Heads of 64 channels each, or one head where 64 does not divide the width."""
    return width // 64 if width % 64 == 0 else 1


def _for_sequences(
    n: int, d_model: int, batch: int, training: bool, generation: bool, reach: int | None
) -> Iterator[Candidate]:
    heads = heads_of(d_model)
    window = WINDOW if reach is None else reach
    causal = ", with is_causal=True" if generation else ""
    full, few_keys, local = "Transformer Self-Attention", "Grouped-Query Attention", "Local Attention"
    writes = generation and not training

    def attention(kv_heads: int, keys: int) -> tuple[Price, Any]:
        sizes = {
            "batch": batch,
            "d_model": d_model,
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "fused": True,
        }
        if writes:
            price = complexity.cost("multi-head-attention", n_q=1, n_k=keys, cached=keys - 1, **sizes)
            return _price(price, training), partial(_make_writer, batch, keys, d_model, heads, kv_heads)
        price = complexity.cost("multi-head-attention", n_q=n, **sizes)
        return _price(price, training), partial(
            _make_attention, batch, n, d_model, heads, kv_heads, generation
        )

    price, make = attention(heads, n)
    said = f"every one of {n:,} tokens reaches every other{causal}"
    accuracy = _far_token(None, reach)
    yield Candidate(
        full, "MultiHeadAttention", _WRITING if writes else full,
        said, n - 1, True, price, make, {"num_heads": heads}, *accuracy,
    )  # fmt: skip
    if generation and heads >= 4 and heads % 4 == 0:
        few = heads // 4
        price, make = attention(few, n)
        yield Candidate(
            few_keys, "MultiHeadAttention", _WRITING if writes else full,
            f"{said}; {few} heads of keys and values serve {heads} of queries, and the cache is a quarter",
            n - 1, True, price, make, {"num_heads": heads, "num_kv_heads": few},
        )  # fmt: skip
    said = f"each of {n:,} tokens reaches {window:,} to each side, at a cost linear in the length{causal}"
    accuracy = _far_token(window, reach)
    if writes:
        price, make = attention(heads, min(n, window + 1))
    else:
        price = _window_price(n, d_model, heads, window, batch, training, generation)
        make = partial(_make_window, batch, n, d_model, heads, window, generation)
    yield Candidate(
        local, "sliding_window_attention", _WRITING if writes else local,
        said, min(window, n - 1), window >= n - 1, price, make, {"window": window}, *accuracy,
    )  # fmt: skip


def _window_price(
    n: int, d_model: int, heads: int, window: int, batch: int, training: bool, causal: bool
) -> Price:
    """Windows between the four projections of multi-head attention."""
    full = complexity.cost(
        "multi-head-attention", batch=batch, n_q=n, d_model=d_model, num_heads=heads, fused=True
    )
    band = complexity.cost(
        "sliding-window-attention", batch=batch, num_heads=heads, n=n, d_k=d_model // heads,
        window=min(window, n), is_causal=causal,
    )  # fmt: skip
    times = 3 if training else 1
    projections = times * full.terms["projections"], times * full.moved_terms["projections"]
    inner = _price(band, training)
    # Beside what the windows hold: q, k and v, which are copied where there are several sequences. In training the
    # merged output, its gradient, and the gradient of one projection.
    tables, weights = (5, d_model**2) if training else (3 if batch == 1 else 6, 0)
    peak = inner.peak_bytes + _FLOAT * (tables * batch * n * d_model + weights)
    return Price(inner.flops + projections[0], inner.bytes_moved + projections[1], peak, peak)


def _make_attention(
    batch: int, n: int, d_model: int, heads: int, kv_heads: int, causal: bool, device: torch.device
) -> Any:
    layer = MultiHeadAttention(d_model, heads, dropout=0.0, num_kv_heads=kv_heads).to(device)
    x = torch.randn(batch, n, d_model, device=device)
    return lambda x: layer(x, x, x, is_causal=causal, need_weights=False)[0], (x,), [layer]


def _make_writer(batch: int, n: int, d_model: int, heads: int, kv_heads: int, device: torch.device) -> Any:
    layer = MultiHeadAttention(d_model, heads, dropout=0.0, num_kv_heads=kv_heads).to(device)
    kept = KeyValueCache(batch, kv_heads, n, d_model // heads, device=device)
    past = torch.randn(batch, kv_heads, n - 1, d_model // heads, device=device)
    kept.append(past, past)
    x = torch.randn(batch, 1, d_model, device=device)

    def write(x: Tensor) -> Tensor:
        kept.length = n - 1
        return layer(x, x, x, is_causal=True, need_weights=False, cache=kept)[0]

    return write, (x,), [layer]


def _make_window(
    batch: int, n: int, d_model: int, heads: int, window: int, causal: bool, device: torch.device
) -> Any:
    layer = MultiHeadAttention(d_model, heads, dropout=0.0).to(device)

    def attend(x: Tensor) -> Tensor:
        q, k, v = (split_heads(w(x), heads) for w in (layer.w_q, layer.w_k, layer.w_v))
        return layer.w_o(merge_heads(sliding_window_attention(q, k, v, window, is_causal=causal)))

    return attend, (torch.randn(batch, n, d_model, device=device),), [layer]


# --- Maps --------------------------------------------------------------------------------------------------

_KERNEL_REACH = 3  # of the 7 × 7 convolution of a spatial gate


def _for_maps(
    height: int, width: int, channels: int, batch: int, training: bool, reach: int | None
) -> Iterator[Candidate]:
    n = height * width
    image = {"batch": batch, "channels": channels, "height": height, "width": width}
    size = f"{height} x {width}"
    far = reach is not None and reach > _KERNEL_REACH

    def layer(type: str, kind: type[nn.Module], mechanism: str, text: str, places: int) -> Candidate:
        everything = kind is cnn.SelfAttention2D
        price = _price(complexity.cost(mechanism, **image), training, maps=batch * channels * n)
        if everything:
            whole = 2 * complexity.score_bytes(batch, 1, n, n)
            price = Price(price.flops, price.bytes_moved, price.peak_bytes, max(price.peak_bytes, whole))
        accuracy = _on_images(kind.__name__, far)
        make = partial(_make_layer, kind, batch, channels, height, width)
        return Candidate(type, kind.__name__, type, text, places, everything, price, make, {}, *accuracy)

    yield layer(
        "CNN Self-Attention", cnn.SelfAttention2D, "self-attention-2d",
        f"every one of {size} places reaches every other", n - 1,
    )  # fmt: skip
    heads = heads_of(channels)
    fused = complexity.cost(
        "multi-head-attention", batch=batch, n_q=n, d_model=channels, num_heads=heads, fused=True
    )
    price = _price(fused, training)
    if (
        training
    ):  # the map is no contiguous table of tokens: each projection of several maps keeps a copy of it
        peak = price.peak_bytes + (3 if batch > 1 else 1) * batch * channels * n * _FLOAT
        price = Price(price.flops, price.bytes_moved, peak, peak)
    yield Candidate(
        "Transformer Self-Attention", "MultiHeadAttention", "Transformer Self-Attention",
        f"the {size} places as tokens, each reaching every other through the fused kernel", n - 1, True,
        price, partial(_make_attention_over_places, batch, channels, height, width, heads),
        {"num_heads": heads}, *_on_images("MultiHeadAttention", far),
    )  # fmt: skip
    yield layer(
        "CNN Spatial + Channel Attention", cnn.CBAM, "cbam",
        f"gates over channels and places, at a cost linear in {size}", _KERNEL_REACH,
    )  # fmt: skip
    yield layer(
        "CNN Spatial Attention", cnn.SpatialAttention, "spatial-attention",
        f"a gate for each of {size} places, from 7 x 7 around it", _KERNEL_REACH,
    )  # fmt: skip
    gates = (
        ("CNN Channel Attention", cnn.ChannelAttention, "channel-attention", "the mean and the maximum of each"),
        ("Squeeze-and-Excitation", cnn.SqueezeExcitation, "squeeze-and-excitation", "the means of all"),
        ("Efficient Channel Attention", cnn.EfficientChannelAttention, "efficient-channel-attention",
         "the means of its neighbours"),
    )  # fmt: skip
    for type, kind, mechanism, source in gates:
        yield layer(
            type, kind, mechanism, f"a gate for each channel, from {source}; no place looks at another", 0
        )


def _make_layer(
    kind: type[nn.Module], batch: int, channels: int, height: int, width: int, device: torch.device
) -> Any:
    module: Any = kind() if kind is cnn.SpatialAttention else kind(channels)
    if isinstance(module, cnn.SelfAttention2D):
        nn.init.constant_(module.gamma, 0.5)  # at its start, 0, the mechanism is the identity
    module.to(device)
    return module, (torch.randn(batch, channels, height, width, device=device),), [module]


def _make_attention_over_places(
    batch: int, channels: int, height: int, width: int, heads: int, device: torch.device
) -> Any:
    layer = MultiHeadAttention(channels, heads, dropout=0.0).to(device)

    def attend(x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        return layer(tokens, tokens, tokens, need_weights=False)[0].mT.unflatten(2, (height, width))

    return attend, (torch.randn(batch, channels, height, width, device=device),), [layer]


# --- Images, frames: whole networks ------------------------------------------------------------------------


def _for_images(height: int, width: int, batch: int, training: bool) -> Iterator[Candidate]:
    image = {"batch": batch, "height": height, "width": width}
    size, cells = f"{height} x {width}", max(1, height // 4) * max(1, width // 4)
    whole = 2 * complexity.score_bytes(batch, 1, cells, cells)

    def network(price: Cost) -> Price:
        found = _price(price, training)
        return Price(found.flops, found.bytes_moved, found.peak_bytes, max(found.peak_bytes, whole))

    places = height * width - 1
    if min(height, width) >= 4:
        price = network(complexity.cost("hybrid", channels=3, num_classes=CLASSES, **image))
        yield Candidate(
            "Hybrid Attention", "transformer_cnn_hybrid", "Hybrid Attention",
            f"convolutions read each {size} image, a transformer its cells", places, True, price,
            partial(_make_hybrid, batch, height, width),
            {"input_shape": (3, height, width), "num_classes": CLASSES}, *_on_images("transformer_cnn_hybrid", True),
        )  # fmt: skip
    if min(height, width) >= 8:
        yield Candidate(
            "CNN with Attention", "AttentionCNN", "CNN with Attention",
            f"convolutions with gates read each {size} image, and each cell of a quarter of the size every other",
            places, True, network(complexity.cost("attention-cnn", **image)),
            partial(_make_cnn, batch, height, width), {"num_classes": CLASSES},
        )  # fmt: skip
    cost = complexity.cost("cbam", channels=64, **image)
    yield Candidate(
        "CNN Spatial + Channel Attention", "CBAM", "CNN Spatial + Channel Attention",
        f"gates each {size} image by itself, nothing in between", _KERNEL_REACH, False, _price(cost, training),
        partial(_make_layer, cnn.CBAM, batch, 64, height, width), {"channels": 64}, *_on_images("CBAM", True),
    )  # fmt: skip


def _make_hybrid(batch: int, height: int, width: int, device: torch.device) -> Any:
    module = HybridAttentionModel((3, height, width), CLASSES)
    return _with_gamma(module, device), (torch.randn(batch, 3, height, width, device=device),), [module]


def _make_cnn(batch: int, height: int, width: int, device: torch.device) -> Any:
    module = cnn.AttentionCNN(CLASSES)
    return _with_gamma(module, device), (torch.randn(batch, 3, height, width, device=device),), [module]


def _with_gamma(module: nn.Module, device: torch.device) -> nn.Module:
    for part in module.modules():
        if isinstance(part, cnn.SelfAttention2D):
            nn.init.constant_(part.gamma, 0.5)
    return module.to(device)


# --- Prices and accuracies ---------------------------------------------------------------------------------


def _price(cost: Cost, training: bool, maps: int = 0) -> Price:
    """The price of a mechanism; where its peak is not modelled, that of the maps a gate makes.

    A gate of the channels writes one map. Its backward pass holds three: that, a gradient, and a product of two maps.
    """
    flops, moved, peak = cost.flops, cost.bytes_moved, cost.peak_bytes
    if training:
        flops, moved, peak = cost.training_flops, cost.bytes_moved_training, cost.peak_bytes_training
    if peak is None:
        peak = (3 if training else 1) * maps * _FLOAT
    return Price(flops, moved, peak, peak)


_CLUTTERED = {
    "SelfAttention2D": "self-attention",
    "CBAM": "cbam",
    "SqueezeExcitation": "se",
    "EfficientChannelAttention": "eca",
}
_STRIP = {
    "transformer_cnn_hybrid": "hybrid",
    "MultiHeadAttention": "hybrid",
    "SelfAttention2D": "self-attention",
    "CBAM": "cbam",
}

Source = tuple[float | None, dict[str, str] | None]


def _on_images(implementation: str, far: bool) -> Source:
    """Accuracy where near places decide (cluttered digits), or far ones (the mirrored strip), over all seeds."""
    record, names = ("mirrored-strip", _STRIP) if far else ("cluttered-digits", _CLUTTERED)
    name = names.get(implementation)
    runs = _runs(results_folder(), record)
    if name is None or not runs:
        return None, None
    if far:
        values = [run["accuracy"][name] for run in runs if name in run["accuracy"]]
        row = f"accuracy of {name}"
    else:
        values = [run["equal_training"][name]["accuracy"] for run in runs]
        row = f"accuracy of {name}, equal training"
    if not values:
        return None, None
    return mean(values), {"file": f"experiments/{record}.json", "row": row}


def _far_token(window: int | None, reach: int | None) -> Source:
    """Accuracy of one layer that has to find a token: of full attention, or of windows within or beyond their reach."""
    runs = _runs(results_folder(), "far-token")
    within = window is None or reach is None or reach <= window
    values = []
    for run in runs:
        for name, by_distance in run["accuracy"].items():
            seen = re.fullmatch(r"window (\d+), 1 layer", name)
            if window is None and name == "full attention, 1 layer":
                values += by_distance.values()
            elif window is not None and seen:
                width = int(seen[1])
                values += [value for far, value in by_distance.items() if (int(far) <= width) is within]
    if not values:
        return None, None
    who = "full attention" if window is None else f"windows {'within' if within else 'beyond'} their reach"
    return mean(values), {"file": "experiments/far-token.json", "row": f"accuracy of {who}, 1 layer"}


@cache
def _runs(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / "experiments" / f"{name}.json"
    return json.loads(path.read_text("utf-8"))["runs"] if path.is_file() else []
