"""Chapter 3: small convolutional networks with and without attention look for a digit among fragments of others."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..analysis import attention_on_mask
from ..cnn import (
    CBAM,
    AttentionCNN,
    EfficientChannelAttention,
    SelfAttention2D,
    SqueezeExcitation,
)
from ..data import Labelled, Pictures, cluttered_digits, digits
from ..training import History, best_device, seeded, train
from .core import Experiment

ATTENTIONS = ("se", "eca", "cbam", "self-attention")
"""What `SmallCNN` can have beside its convolutions."""

VARIANTS = ("plain", *ATTENTIONS)
"""The small networks that are compared: one without attention, and one with each."""

WIDTHS = (16, 32, 64)
"""Channels of the three stages: a quarter of `AttentionCNN`'s."""

# --- Networks ----------------------------------------------------------------------------------------------


class SmallCNN(nn.Module):
    """`AttentionCNN`'s skeleton with the attention of your choice: three convolutions, each halved, mean, linear.

    A stage is ``conv 3 x 3, batch norm, ReLU, attention, 2 x 2 max-pooling``. Gates (``"se"``, ``"eca"``, ``"cbam"``)
    stand in every stage; ``"self-attention"`` in the last alone, as in `AttentionCNN`, for its map grows with the
    fourth power of the side.

    Shapes: ``x (B, in_channels, H, W)`` -> logits ``(B, num_classes)``; with ``need_weights=True`` also a dictionary of
    the weights by stage (0, 1, 2), where there is attention.

    Args:
        attention: a name of `ATTENTIONS`, None, or what makes a module from a number of channels.
        widths: channels of the three stages.
        in_channels: 1 for grey images, 3 for colour.
        num_classes: number of logits.
        reduction: of the hidden layer in ``"se"`` and ``"cbam"``.
        norm: False leaves the batch normalisation out, as `AttentionCNN` has none.

    Raises:
        ValueError: an unknown name, a number of stages other than three, an image smaller than 8 x 8.
    """

    def __init__(
        self,
        attention: str | Callable[[int], nn.Module] | None = None,
        widths: Sequence[int] = WIDTHS,
        in_channels: int = 1,
        num_classes: int = 10,
        reduction: int = 4,
        norm: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(attention, str) and attention not in ATTENTIONS:
            raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)} or None, got {attention!r}")
        if len(widths) != 3 or min(widths) < 1:
            raise ValueError(f"expected the channels of three stages, got {tuple(widths)}")
        inputs = (in_channels, *widths[:2])
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in zip(inputs, widths, strict=True))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) if norm else nn.Identity() for width in widths)
        self.attentions = nn.ModuleDict()
        for stage, width in enumerate(widths):
            if callable(attention):
                self.attentions[str(stage)] = attention(width)
            elif attention == "se":
                self.attentions[str(stage)] = SqueezeExcitation(width, reduction)
            elif attention == "eca":
                self.attentions[str(stage)] = EfficientChannelAttention(width)
            elif attention == "cbam":
                self.attentions[str(stage)] = CBAM(width, reduction)
            elif attention == "self-attention" and stage == 2:
                self.attentions[str(stage)] = SelfAttention2D(width)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor, *, need_weights: bool = False) -> Any:
        """Return the logits, or ``(logits, weights by stage)`` with ``need_weights=True``."""
        weights: dict[int, Any] | None = {} if need_weights else None
        x = F.max_pool2d(self.feature_map(x, weights), 2)
        logits = self.classifier(x.mean(dim=(2, 3)))
        return (logits, weights) if need_weights else logits

    def feature_map(self, x: Tensor, weights: dict[int, Any] | None = None) -> Tensor:
        """What the last stage lets through, ``(B, C, H // 4, W // 4)``; a dictionary, if given, gets the weights."""
        if x.ndim != 4 or min(x.shape[2:]) < 8:
            raise ValueError(f"SmallCNN expects images (B, C, H, W) of at least 8 x 8, got {tuple(x.shape)}")
        for stage, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if stage > 0:
                x = F.max_pool2d(x, 2)
            x = F.relu(norm(conv(x)))
            if str(stage) in self.attentions:
                attention = self.attentions[str(stage)]
                if weights is None:
                    x = attention(x)
                else:
                    x, weights[stage] = attention(x, need_weights=True)
        return x


def build(
    name: str,
    *,
    widths: Sequence[int] = WIDTHS,
    in_channels: int = 1,
    num_classes: int = 10,
    reduction: int = 4,
) -> nn.Module:
    """A network by the name it has in the records.

    ``"plain"`` and the names of `ATTENTIONS` are a `SmallCNN`; ``"plain, no norm"`` is one without batch normalisation;
    ``"attention-cnn"`` is `AttentionCNN` as it is (its widths and its three input channels are its own).

    Raises:
        ValueError: an unknown name.
    """
    if name == "attention-cnn":
        return AttentionCNN(num_classes)
    attention = None if name in ("plain", "plain, no norm") else name
    return SmallCNN(attention, widths, in_channels, num_classes, reduction, norm=name != "plain, no norm")


def forward_flops(model: nn.Module, image_shape: Sequence[int]) -> int:
    """FLOPs of one forward pass of one image ``(C, H, W)``: convolutions and matrix products, as torch counts them."""
    channels, height, width = image_shape
    if isinstance(model, AttentionCNN):
        channels = 3
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).eval().to("meta")(torch.empty(1, channels, height, width, device="meta"))
    return counter.get_total_flops()


def widths_for(
    name: str,
    flops: int,
    image_shape: Sequence[int],
    *,
    start: Sequence[int] = WIDTHS,
    reduction: int = 4,
) -> tuple[int, ...]:
    """The widths, in the proportions of ``start``, at which a network comes nearest to a number of FLOPs per image.

    Raises:
        ValueError: nothing between half and sixteen times ``start`` comes within 3 %.
    """

    def price(widths: tuple[int, ...]) -> int:
        model = build(name, widths=widths, in_channels=image_shape[0], reduction=reduction)
        return forward_flops(model, image_shape)

    low, high = 0.5, 16.0
    tried: dict[tuple[int, ...], int] = {}
    while high - low > 1e-3:
        middle = (low + high) / 2
        widths = tuple(max(1, round(middle * width)) for width in start)
        tried[widths] = tried.get(widths) or price(widths)
        low, high = (middle, high) if tried[widths] < flops else (low, middle)
    best = min(tried, key=lambda widths: abs(tried[widths] - flops))
    if abs(tried[best] / flops - 1) > 0.03:
        raise ValueError(
            f"{name} cannot be brought to {flops:,} FLOPs: the nearest is {tried[best]:,} at {best}"
        )
    return best


# --- Training ----------------------------------------------------------------------------------------------


def prepared(model: nn.Module, images: Tensor, like: Tensor) -> Tensor:
    """Images as a network takes them: mean 0 and spread 1 over ``like`` (the training images), on its device.

    A grey image is given to `AttentionCNN` three times, as red, green and blue.
    """
    mean, spread = like.mean(dim=(0, 2, 3), keepdim=True), like.std(dim=(0, 2, 3), keepdim=True)
    images = ((images - mean) / spread).to(next(model.parameters()).device)
    return images.expand(-1, 3, -1, -1) if isinstance(model, AttentionCNN) else images


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    """The class of each prepared image, ``(N,)`` int64 on the CPU."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(dim=1).cpu() for part in images.split(250)])


def train_classifier(
    model: str | Callable[[], nn.Module],
    seed: int,
    task: Any,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    measure_every: int = 100,
    **sizes: Any,
) -> tuple[nn.Module, History]:
    """Train one network from a seed; the history has its accuracy on the test images.

    Args:
        model: a name that `build` knows, or what makes a network.
        seed: of the weights and of the batches: networks that start from one seed see the same batches.
        task: ``task.train`` and ``task.test``, each with ``images (N, C, H, W)`` and ``labels (N,)``.
        steps: with ``batch_size`` random images each.
        batch_size: images in a batch.
        learning_rate: at its highest; see `attn_course.training.train`.
        measure_every: steps from one measurement of the accuracy to the next.
        sizes: for `build`; the number of channels is taken from the images.

    Returns:
        The network in eval mode, and the history.
    """
    train_images, labels = task.train.images, task.train.labels
    with seeded(seed):
        network = model() if callable(model) else build(model, in_channels=train_images.shape[1], **sizes)
    network = network.to(best_device())
    images = prepared(network, train_images, train_images)
    test_images = prepared(network, task.test.images, train_images)
    targets = labels.to(images.device)

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        batch = torch.randint(len(labels), (batch_size,), generator=generator).to(images.device)
        return F.cross_entropy(network(images[batch]), targets[batch])

    def measure(network: nn.Module) -> dict[str, float]:
        right = predictions(network, test_images) == task.test.labels
        return {"accuracy": right.float().mean().item()}

    history = train(
        network, loss, steps=steps, learning_rate=learning_rate, seed=seed, measure=measure,
        measure_every=measure_every, description=f"{model if isinstance(model, str) else 'network'}, seed {seed}",
    )  # fmt: skip
    return network, history


def _outcome(model: nn.Module, history: History, task: Any, learning_rate: float) -> dict[str, Any]:
    """What is recorded of one trained network."""
    if history.interrupted:
        raise KeyboardInterrupt
    shape = task.train.images.shape[1:]
    return {
        "accuracy": round(history.measures["accuracy"][-1][1], 4),
        "curve": [(step, round(value, 4)) for step, value in history.measures["accuracy"]],
        "loss": round(sum(history.losses[-50:]) / len(history.losses[-50:]), 4),
        "learning_rate": learning_rate,
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": forward_flops(model, shape),
        "widths": [conv.out_channels for conv in model.convs]
        if isinstance(model, SmallCNN)
        else [64, 128, 256],
        "training_seconds": round(history.seconds, 1),
    }


# --- Is the attention used? --------------------------------------------------------------------------------


def fixed_accuracy(model: nn.Module, task: Any, count: int = 1000) -> float:
    """Accuracy on the test images when attention no longer depends on the image.

    Every gate is set to its mean over ``count`` training images, and `SelfAttention2D` adds nothing, as with
    ``gamma = 0``. A network that uses what its attention says about an image loses by it.
    """
    images = prepared(model, task.train.images[:count], task.train.images)
    modules = [m for m in model.modules() if isinstance(m, (CBAM, *_GATES, SelfAttention2D))]
    gates = [_mean_gates(model, module, images) for module in modules]

    def fix(gate: Tensor | None) -> Callable[..., Tensor]:
        return lambda module, inputs, output: inputs[0] if gate is None else inputs[0] * gate

    handles = [module.register_forward_hook(fix(gate)) for module, gate in zip(modules, gates, strict=True)]
    try:
        named = predictions(model, prepared(model, task.test.images, task.train.images))
    finally:
        for handle in handles:
            handle.remove()
    return (named == task.test.labels).float().mean().item()


def _attention_used(model: nn.Module, task: Any) -> dict[str, float]:
    """``fixed_accuracy``, and ``gamma`` where there is one."""
    found = {"fixed_accuracy": round(fixed_accuracy(model, task), 4)}
    for module in model.modules():
        if isinstance(module, SelfAttention2D):
            found["gamma"] = round(module.gamma.item(), 4)
    return found


_GATES = (SqueezeExcitation, EfficientChannelAttention)


def _mean_gates(model: nn.Module, module: nn.Module, images: Tensor) -> Tensor | None:
    """What ``module`` multiplies its input by, on average over images, inside ``model``; None for self-attention."""
    if isinstance(module, SelfAttention2D):
        return None
    found: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        handle.remove()  # the call below comes here again
        weights = module(inputs[0], need_weights=True)[1]
        found.append(weights[0] * weights[1] if isinstance(weights, tuple) else weights)

    for part in images.split(250):
        handle = module.register_forward_pre_hook(note)
        with torch.no_grad():
            model(part)
    return torch.cat([gate.mean(dim=0, keepdim=True) * len(gate) for gate in found]).sum(dim=0) / len(images)


# --- Does it look at the digit? ----------------------------------------------------------------------------


def attention_maps(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Every map that says where a network looks, ``(N, H, W)`` at the size of the images, by name.

    * ``spatial gate, stage 1`` (2, 3): CBAM's spatial weights.
    * ``attention received``: how much of all queries' attention each pixel of `SelfAttention2D` gets, as a key.
    * ``feature energy``: the mean of the absolute features that the last stage lets through. A channel gate has no
      map of its own; this one has its effect in it.
    * ``gradient``: the absolute gradient of the right class's logit with respect to the image.

    Args:
        model: `SmallCNN` or `AttentionCNN`, in eval mode.
        images: as `prepared` gives them.
        labels: the right classes, ``(N,)``.
    """
    parts = [
        _maps(model, x, y.to(x.device)) for x, y in zip(images.split(250), labels.split(250), strict=True)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _maps(model: nn.Module, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    height, width = x.shape[2:]
    maps: dict[str, Tensor] = {}
    with torch.no_grad():
        _, weights = model(x, need_weights=True)
        for stage, entry in enumerate(_by_stage(weights)):
            if isinstance(entry, tuple):
                maps[f"spatial gate, stage {stage + 1}"] = entry[1]
            elif entry is not None and entry.ndim == 3:
                shape = (height // 2**stage, width // 2**stage)
                maps["attention received"] = entry.mean(dim=1).unflatten(1, shape)[:, None]
        if isinstance(model, SmallCNN):
            maps["feature energy"] = model.feature_map(x).abs().mean(dim=1, keepdim=True)
    x = x.detach().clone().requires_grad_()
    chosen = model(x).gather(1, labels[:, None]).sum()
    maps["gradient"] = torch.autograd.grad(chosen, x)[0].abs().sum(dim=1, keepdim=True)
    return {
        name: F.interpolate(values, (height, width), mode="bilinear")[:, 0].cpu()
        for name, values in maps.items()
    }


def _by_stage(weights: dict[Any, Any]) -> list[Any]:
    if "cbam1" in weights:
        return [weights["cbam1"], weights["cbam2"], weights["self_attention"]]
    return [weights.get(stage) for stage in range(3)]


def on_mask(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """Means over the images of `analysis.attention_on_mask`, and the same against the masks of other images.

    Args:
        maps: ``(N, H, W)``, not negative.
        masks: ``(N, H, W)`` bool.

    Returns:
        ``share``, ``hits`` and ``above`` (there: ``share``, ``hit``, ``above``), and each with ``_shuffled`` added to
        its name: the mean over ten shifts of the masks along the images.
        ``lift`` is ``share / share_shuffled``.
    """
    sets = torch.stack([masks.roll(shift, dims=0) for shift in range(11)])  # the first is each image's own
    judged = attention_on_mask(maps, sets)
    own = {name: float(judged[name][0].mean()) for name in ("share", "hit", "above")}
    shuffled = {name: float(judged[name][1:].mean()) for name in own}
    return {
        "share": own["share"],
        "share_shuffled": shuffled["share"],
        "lift": own["share"] / shuffled["share"],
        "hits": own["hit"],
        "hits_shuffled": shuffled["hit"],
        "above": own["above"],
        "above_shuffled": shuffled["above"],
    }


def looks_at_the_digit(model: nn.Module, task: Any) -> dict[str, dict[str, float]]:
    """`on_mask` of each of `attention_maps` on the test images."""
    images = prepared(model, task.test.images, task.train.images)
    maps = attention_maps(model, images, task.test.labels)
    return {name: _rounded(on_mask(values, task.test.masks)) for name, values in maps.items()}


def looks_of_controls(task: Any) -> dict[str, dict[str, float]]:
    """`on_mask` of each of `mask_controls` on the test images."""
    controls = mask_controls(task.test.masks, task.train.masks, task.test.images)
    return {name: _rounded(on_mask(values, task.test.masks)) for name, values in controls.items()}


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def mask_controls(masks: Tensor, train_masks: Tensor, images: Tensor, cell: int = 4) -> dict[str, Tensor]:
    """Maps that know nothing of a network, ``(N, H, W)``, to compare `attention_maps` with.

    * ``uniform``: the same everywhere.
    * ``centre prior``: the mean mask of the training images: where digits tend to be.
    * ``ink``: the image itself: what is dark, digit and fragments alike.
    * ``the mask in cells``: the mask averaged over ``cell x cell`` pixels: as much as a coarse map can say.
    """
    coarse = F.avg_pool2d(masks[:, None].float(), cell)
    return {
        "uniform": torch.ones(masks.shape),
        "centre prior": train_masks.float().mean(dim=0).expand(masks.shape),
        "ink": images.mean(dim=1),
        "the mask in cells": F.interpolate(coarse, masks.shape[1:], mode="bilinear")[:, 0],
    }


# --- A small cue decides -----------------------------------------------------------------------------------

POOLINGS = ("average", "max", "both")
"""How a gate sums up what it looks at."""

ORDERS = ("channel only", "channel first", "spatial first", "parallel")
"""Which gates there are, and which comes first."""


@dataclass(frozen=True)
class CuedPictures(Labelled):
    """Pictures with two digits each: ``labels`` of the one that counts, ``others`` of the one that does not.

    ``cues (N,)`` is True where the mark is there; ``marks (N, 2)`` is its top and left, in every picture. The noise
    is not cut off at 0 and 1.
    """

    others: Tensor
    cues: Tensor
    marks: Tensor


def cued_digits(
    train_count: int = 4000, test_count: int = 1000, *, size: int = 32, noise: float = 0.1, seed: int = 0
) -> Pictures:
    """A red digit and a green digit on a noisy ground; a small blue mark, if it is there, says that the green counts.

    The digits are 16 pixels wide, the mark 2 x 2: four of ``size * size`` pixels in one of three colours. It lies
    anywhere, so that most often no convolution sees mark and digit together. Who does not notice the mark can do no
    better than to name one of the two digits: right in 0.55 of the pictures, as they are the same digit in one of ten.

    Returns:
        `Pictures` whose parts are `CuedPictures`, ``images (N, 3, size, size)``; test pictures show test digits.
    """
    source = digits()
    train = _cued(source.train_images, source.train_labels, train_count, size, noise, 2 * seed)
    test = _cued(source.test_images, source.test_labels, test_count, size, noise, 2 * seed + 1)
    note = "Two digits; a small mark says which one counts."
    return Pictures(train, test, note)


def _cued(images: Tensor, labels: Tensor, count: int, size: int, noise: float, seed: int) -> CuedPictures:
    generator = torch.Generator().manual_seed(seed)

    def draw(end: int) -> Tensor:
        return torch.randint(end, (count,), generator=generator)

    def place(side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Indices of a square in each picture, and its corner."""
        top, left, step = draw(size - side + 1), draw(size - side + 1), torch.arange(side)
        picture = torch.arange(count)[:, None, None]
        corner = torch.stack([top, left], dim=1)
        return picture, (top[:, None] + step)[:, :, None], (left[:, None] + step)[:, None], corner

    scenes = 0.15 + noise * torch.randn(count, 3, size, size, generator=generator)
    digit = F.interpolate(images, scale_factor=2.0, mode="bilinear")[:, 0]
    red, green = draw(len(images)), draw(len(images))
    for channel, shown in enumerate((red, green)):
        picture, rows, columns, _ = place(digit.shape[-1])
        scenes[picture, channel, rows, columns] += 0.85 * digit[shown]
    cues = draw(2).bool()
    picture, rows, columns, marks = place(2)
    scenes[picture, 2, rows, columns] += cues[:, None, None].float()
    return CuedPictures(
        images=scenes,
        labels=torch.where(cues, labels[green], labels[red]),
        others=torch.where(cues, labels[red], labels[green]),
        cues=cues,
        marks=marks,
    )


class Gates(nn.Module):
    """CBAM's two gates, with a choice of pooling and of order; ``pooling="both"``, ``"channel first"`` is `CBAM`.

    * ``pooling``: the channel gate sums up pixels, and the spatial gate channels, by average, maximum, or both.
    * ``order``: ``"channel only"``; ``"channel first"`` and ``"spatial first"``: the second gate sees what the first
      lets through; ``"parallel"``: both see the input, and the product of the gates is applied.

    Shapes: ``x (B, C, H, W)`` -> output ``(B, C, H, W)``; weights ``(B, C, 1, 1)`` and ``(B, 1, H, W)`` (or None).

    Raises:
        ValueError: an unknown pooling or order.
    """

    def __init__(
        self, in_channels: int, pooling: str, order: str, reduction: int = 4, kernel_size: int = 7
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS or order not in ORDERS:
            raise ValueError(
                f"expected a pooling of {POOLINGS} and an order of {ORDERS}, got {pooling!r}, {order!r}"
            )
        self.pooling, self.order = pooling, order
        hidden = max(1, in_channels // reduction)
        self.fc = nn.Sequential(
            nn.Linear(in_channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, in_channels, bias=False)
        )
        if order != "channel only":
            summaries = 2 if pooling == "both" else 1
            self.conv = nn.Conv2d(summaries, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def _summaries(self, x: Tensor, dim: int) -> list[Tensor]:
        mean, maximum = x.mean(dim, keepdim=True), x.max(dim, keepdim=True)[0]
        return {"average": [mean], "max": [maximum], "both": [mean, maximum]}[self.pooling]

    def _channel(self, x: Tensor) -> Tensor:
        summaries = [self.fc(summary.squeeze(2)) for summary in self._summaries(x.flatten(2), dim=2)]
        return torch.sigmoid(sum(summaries[1:], summaries[0]))[:, :, None, None]

    def _spatial(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(torch.cat(self._summaries(x, dim=1), dim=1)))

    def forward(self, x: Tensor, *, need_weights: bool = False) -> Any:
        """Return the output, or ``(output, (channel, spatial weights))`` with ``need_weights=True``."""
        spatial = None
        if self.order == "spatial first":
            spatial = self._spatial(x)
            channel = self._channel(x * spatial)
        else:
            channel = self._channel(x)
            if self.order != "channel only":
                spatial = self._spatial(x * channel if self.order == "channel first" else x)
        output = x * channel if spatial is None else x * channel * spatial
        return (output, (channel, spatial)) if need_weights else output


# --- What is run -------------------------------------------------------------------------------------------

TRAINING: dict[str, Any] = {"steps": 600, "batch_size": 32}
"""Equal training: the same for every network on cluttered digits."""

SMALL_SETTINGS: dict[str, Any] = {
    **TRAINING,
    "widths": list(WIDTHS),
    "reduction": 4,
    "learning_rates": {"plain": 0.03, "se": 0.03, "eca": 0.03, "cbam": 0.01, "self-attention": 0.01},
}

WIDE_SETTINGS: dict[str, Any] = {
    **TRAINING,
    "learning_rates": {"attention-cnn": 0.001, "plain": 0.003, "plain, no norm": 0.001},
}

LONGER_SETTINGS: dict[str, Any] = {"steps": 1200, "batch_size": 32, "learning_rate": 0.001}

CUE_SETTINGS: dict[str, Any] = {
    "steps": 700,
    "batch_size": 32,
    "learning_rate": 0.005,
    "reduction": 4,
    "size": 32,
    "noise": 0.1,
    "gates": [
        ["none", "none"],
        *([pooling, order] for order in ("channel only", "channel first") for pooling in POOLINGS),
        *(["both", order] for order in ("spatial first", "parallel")),
    ],
}

RATES_SEED = 100
"""The seed that learning rates are chosen with; no recorded comparison uses it."""


def run_cluttered_digits(
    seed: int,
    *,
    steps: int,
    batch_size: int,
    widths: list[int],
    reduction: int,
    learning_rates: dict[str, float],
) -> tuple[dict[str, Any], nn.Module]:
    """The small networks at equal training, then brought to the FLOPs of the dearest one; and where they look."""
    task = cluttered_digits()
    shape = task.train.images.shape[1:]
    equal_training, equal_flops, looks = {}, {}, {}
    kept = nn.ModuleDict()
    for name, rate in learning_rates.items():
        model, history = train_classifier(
            name, seed, task, steps=steps, batch_size=batch_size, learning_rate=rate, widths=widths,
            reduction=reduction,
        )  # fmt: skip
        equal_training[name] = {**_outcome(model, history, task, rate), **_attention_used(model, task)}
        looks[name] = looks_at_the_digit(model, task)
        kept[name] = model.cpu()
    budget = max(entry["flops"] for entry in equal_training.values())
    for name, rate in learning_rates.items():
        if equal_training[name]["flops"] == budget:
            equal_flops[name] = equal_training[name]
            continue
        wider = widths_for(name, budget, shape, start=widths, reduction=reduction)
        model, history = train_classifier(
            name, seed, task, steps=steps, batch_size=batch_size, learning_rate=rate, widths=wider,
            reduction=reduction,
        )  # fmt: skip
        equal_flops[name] = _outcome(model, history, task, rate)
    outcome = {
        "equal_training": equal_training,
        "equal_flops": equal_flops,
        "flops_budget": budget,
        "looks": looks,
        "controls": looks_of_controls(task),
    }
    return outcome, kept


def run_attention_cnn(
    seed: int, *, steps: int, batch_size: int, learning_rates: dict[str, float]
) -> tuple[dict[str, Any], None]:
    """`AttentionCNN` as it is, and plain networks, with and without batch normalisation, of as many FLOPs."""
    task = cluttered_digits()
    shape = task.train.images.shape[1:]
    budget = forward_flops(build("attention-cnn"), shape)
    networks, looks = {}, {}
    for name, rate in learning_rates.items():
        sizes: dict[str, Any] = {} if name == "attention-cnn" else {"widths": widths_for(name, budget, shape)}
        model, history = train_classifier(
            name, seed, task, steps=steps, batch_size=batch_size, learning_rate=rate, **sizes
        )
        networks[name] = _outcome(model, history, task, rate)
        looks[name] = looks_at_the_digit(model, task)
    return {"networks": networks, "flops_budget": budget, "looks": looks}, None


def run_attention_cnn_longer(
    seed: int, *, steps: int, batch_size: int, learning_rate: float
) -> tuple[dict[str, Any], nn.Module]:
    """`AttentionCNN` as it is, with more steps than the others had."""
    task = cluttered_digits()
    model, history = train_classifier(
        "attention-cnn", seed, task, steps=steps, batch_size=batch_size, learning_rate=learning_rate
    )
    outcome = {
        **_outcome(model, history, task, learning_rate),
        **_attention_used(model, task),
        "looks": looks_at_the_digit(model, task),
    }
    return outcome, model.cpu().half()  # under 1 MB; `load_state_dict` copies it back into float32


def run_pooling_and_order(
    seed: int,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    reduction: int,
    size: int,
    noise: float,
    gates: list[list[str]],
) -> tuple[dict[str, Any], None]:
    """Gates of each pooling and each order, and none at all, where a small mark decides which of two digits counts."""
    task = cued_digits(size=size, noise=noise)
    networks = []
    for pooling, order in gates:
        model, history = train_cued(
            pooling, order, seed, task, steps=steps, batch_size=batch_size, learning_rate=learning_rate,
            reduction=reduction,
        )  # fmt: skip
        outcome = _outcome(model, history, task, learning_rate)
        networks.append({"pooling": pooling, "order": order, **outcome, **wrong_digit(model, task)})
    return {"networks": networks}, None


def train_cued(
    pooling: str, order: str, seed: int, task: Any, *, reduction: int = 4, **training: Any
) -> tuple[nn.Module, History]:
    """A `SmallCNN` with `Gates` in each stage, or without any for ``"none"``, trained on `cued_digits`."""

    def network() -> nn.Module:
        if pooling == "none":
            return SmallCNN(None, in_channels=3)
        return SmallCNN(lambda channels: Gates(channels, pooling, order, reduction), in_channels=3)

    return train_classifier(network, seed, task, **training)


def wrong_digit(model: nn.Module, task: Any) -> dict[str, float]:
    """Where the two digits differ: how often the right one is named (``right``), and how often the other."""
    test = task.test
    named = predictions(model, prepared(model, test.images, task.train.images))
    differ = test.labels != test.others
    return {
        "right": round((named == test.labels)[differ].float().mean().item(), 4),
        "other": round((named == test.others)[differ].float().mean().item(), 4),
    }


def run_small_rates(
    seed: int, *, rates: list[float], widths: list[int], reduction: int, **training: int
) -> tuple[dict[str, Any], None]:
    """Each small network at each learning rate, measured on training scenes that it has not seen."""
    task = _held_out(cluttered_digits().train)
    sizes: dict[str, Any] = {"widths": widths, "reduction": reduction}
    tried = [
        _tried(name, rate, train_classifier(name, seed, task, learning_rate=rate, **training, **sizes)[1])
        for name in VARIANTS
        for rate in rates
    ]
    return {"tried": tried}, None


def run_wide_rates(
    seed: int, *, rates: dict[str, list[float]], **training: int
) -> tuple[dict[str, Any], None]:
    """`AttentionCNN` and its plain rivals at each learning rate, measured likewise."""
    scenes = cluttered_digits().train
    shape = scenes.images.shape[1:]
    budget = forward_flops(build("attention-cnn"), shape)
    task, tried = _held_out(scenes), []
    for name in rates:
        sizes: dict[str, Any] = {} if name == "attention-cnn" else {"widths": widths_for(name, budget, shape)}
        for rate in rates[name]:
            _, history = train_classifier(name, seed, task, learning_rate=rate, **training, **sizes)
            tried.append(_tried(name, rate, history))
    return {"tried": tried}, None


def run_cue_rates(
    seed: int, *, rates: list[float], gates: list[list[str]], size: int, noise: float, **training: int
) -> tuple[dict[str, Any], None]:
    """Some gates at each learning rate, measured on training pictures that they have not seen."""
    task = _held_out(cued_digits(size=size, noise=noise).train)
    tried = []
    for pooling, order in gates:
        for rate in rates:
            _, history = train_cued(pooling, order, seed, task, learning_rate=rate, **training)
            tried.append(_tried(f"{pooling}, {order}", rate, history))
    return {"tried": tried}, None


def _tried(name: str, rate: float, history: History) -> dict[str, Any]:
    if history.interrupted:
        raise KeyboardInterrupt
    return {
        "network": name,
        "learning_rate": rate,
        "accuracy": round(history.measures["accuracy"][-1][1], 4),
        "loss": round(sum(history.losses[-50:]) / len(history.losses[-50:]), 4),
    }


def _held_out(part: Any, share: float = 0.2) -> Pictures:
    """Training pictures alone: the last ones are kept to measure on."""
    first = round((1 - share) * len(part.labels))
    return Pictures(
        Labelled(part.images[:first], part.labels[:first]),
        Labelled(part.images[first:], part.labels[first:]),
        "Training pictures, the last of them held out.",
    )


EXPERIMENTS = (
    Experiment(
        name="cluttered-digits",
        hypothesis="With attention a small network finds the digit among fragments more often, also at equal FLOPs.",
        run=run_cluttered_digits,
        settings=SMALL_SETTINGS,
        seeds=(0, 1, 2, 3, 4),
    ),
    Experiment(
        name="attention-cnn",
        hypothesis="AttentionCNN beats a plain network of as many FLOPs, given the same training.",
        run=run_attention_cnn,
        settings=WIDE_SETTINGS,
        seeds=(0, 1, 2, 3, 4),
    ),
    Experiment(
        name="attention-cnn-longer",
        hypothesis="Given twice the steps, AttentionCNN comes to what the plain network reaches.",
        run=run_attention_cnn_longer,
        settings=LONGER_SETTINGS,
    ),
    Experiment(
        name="pooling-and-order",
        hypothesis="A mark of four pixels is lost in an average and kept by a maximum; the order matters less.",
        run=run_pooling_and_order,
        settings=CUE_SETTINGS,
        seeds=(0, 1, 2, 3, 4),
    ),
    Experiment(
        name="cluttered-digits-rates",
        hypothesis="Each small network has a learning rate of its own; it is looked for before they compete.",
        run=run_small_rates,
        settings={**TRAINING, "widths": list(WIDTHS), "reduction": 4, "rates": [0.003, 0.01, 0.03, 0.1]},
        seeds=(RATES_SEED,),
    ),
    Experiment(
        name="attention-cnn-rates",
        hypothesis="AttentionCNN and its plain rivals have learning rates of their own too.",
        run=run_wide_rates,
        settings={
            **TRAINING,
            "rates": {
                "attention-cnn": [0.0005, 0.001, 0.002],
                "plain": [0.001, 0.003],
                "plain, no norm": [0.001, 0.003],
            },
        },
        seeds=(RATES_SEED,),
    ),
    Experiment(
        name="pooling-and-order-rates",
        hypothesis="One learning rate serves averages and maxima alike, so that all gates can share it.",
        run=run_cue_rates,
        settings={
            **{key: CUE_SETTINGS[key] for key in ("steps", "batch_size", "reduction", "size", "noise")},
            "rates": [0.0025, 0.005, 0.01],
            "gates": [["average", "channel only"], ["max", "channel only"]],
        },
        seeds=(RATES_SEED,),
    ),
)
