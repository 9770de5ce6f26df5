"""Chapter 7: convolutions, attention, and both: how much data they need, and what each can see."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..cnn import SelfAttention2D
from ..data import Digits, StripTask, cluttered_digits, digit_strips, digits, held_out
from ..hybrid import HybridAttentionModel
from ..training import History, best_device, seeded, train
from ..transformer import TransformerBlock
from .chapter3 import SmallCNN
from .core import Experiment

# --- Networks ----------------------------------------------------------------------------------------------

WIDTH, DEPTH, HEADS = 48, 2, 4
"""Of the hybrid: some 74,000 parameters. The other networks have as many, within 6 %."""

VIT_WIDTH = 52

CNN_WIDTHS, CBAM_WIDTHS = (28, 57, 114), (27, 54, 108)
"""Channels of the stages at which the convolutional networks have as many."""

ATTENTION_WIDTHS = (25, 51, 102)
DEEPER_WIDTHS, FLAT_HIDDEN = (12, 24, 48), 1670
"""The trunk of the deeper and of the flat network, and the latter's hidden layer."""

IMAGE_MODELS = ("cnn", "cbam", "hybrid", "vit")
STRIP_MODELS = ("cnn", "cnn, deeper", "cbam", "self-attention", "hybrid", "hybrid, no positions", "flat")


class SmallViT(nn.Module):
    """A vision transformer: patches are the tokens, and there is no convolution.

    image → patches of `p × p` → one linear layer → + positions → transformer blocks → mean → one linear layer.

    Shapes: ``x (B, C, H, W)`` → logits ``(B, num_classes)``; with ``need_weights=True`` also the list of the blocks'
    weights, ``(B, h, n, n)`` each, ``n = H·W / p²``.

    Raises:
        ValueError: ``patch`` does not divide both sides.

    Dosovitskiy et al., An Image is Worth 16x16 Words, 2021 (arXiv:2010.11929); a mean instead of a class token, as in
    its appendix D.3.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        *,
        patch: int,
        width: int = VIT_WIDTH,
        depth: int = DEPTH,
        num_heads: int = HEADS,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        channels, height, image_width = image_shape
        if height % patch or image_width % patch:
            raise ValueError(f"a patch of {patch} must divide both sides of {height} x {image_width}")
        self.patch = patch
        self.embed = nn.Linear(channels * patch**2, width)
        self.positions = nn.Parameter(torch.empty(1, height * image_width // patch**2, width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        blocks = [TransformerBlock(width, num_heads, 4 * width, dropout) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor, *, need_weights: bool = False) -> Any:
        """Return the logits, or ``(logits, weights of each block)`` with ``need_weights=True``."""
        patches = F.unfold(x, self.patch, stride=self.patch).mT  # (B, n, C·p·p), row by row
        x = self.embed(patches) + self.positions
        maps = []
        for block in self.blocks:
            x, weights = block(x, need_weights=need_weights)
            maps.append(weights)
        logits = self.classifier(x.mean(dim=1))
        return (logits, maps) if need_weights else logits


def image_model(name: str, image_shape: Sequence[int], num_classes: int = 10) -> nn.Module:
    """One of `IMAGE_MODELS`, all of about the same number of parameters, or ``"hybrid, no norm"``.

    Raises:
        ValueError: an unknown name.
    """
    channels, height, width = image_shape
    small = height < 16
    if name == "cnn":
        return SmallCNN(None, CNN_WIDTHS, channels, num_classes)
    if name == "cbam":
        return SmallCNN("cbam", CBAM_WIDTHS, channels, num_classes)
    if name in ("hybrid", "hybrid, no norm"):
        return HybridAttentionModel(
            (channels, height, width), num_classes, width=WIDTH, depth=DEPTH, num_heads=HEADS,
            grid=2 if small else 8,  # every place of the map that the convolutions leave
            norm=name == "hybrid",
        )  # fmt: skip
    if name == "vit":
        return SmallViT(image_shape, num_classes, patch=2 if small else 4)
    raise ValueError(f"unknown network {name!r}; known: {', '.join(IMAGE_MODELS)}")


class StripNet(nn.Module):
    """Convolutions, a cell for each place of a strip, and an answer at each cell.

    ``x (B, 1, 8, 8·places)`` → logits ``(B, places, 10)``: ``trunk``, which makes a feature map and is warmed up;
    ``far``, which may carry something from place to place; ``cells``; ``answer``, from ``(B, places, channels)``.
    """

    def __init__(
        self, trunk: nn.Module, answer: nn.Module, *, far: nn.Module | None = None, places: int = 6
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.far = nn.Identity() if far is None else far
        self.cells = nn.AdaptiveAvgPool2d((1, places))
        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each place."""
        return self.answer(self.cells(self.far(self.trunk(x))).flatten(2).mT)


class FeatureMap(nn.Module):
    """What the last stage of a `SmallCNN` lets through."""

    def __init__(self, cnn: SmallCNN) -> None:
        super().__init__()
        self.cnn = cnn
        del cnn.classifier

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map ``(B, C, H // 4, W // 4)``."""
        return self.cnn.feature_map(x)


class Far(nn.Module):
    """Convolutions with holes on a feature map, each added to what it reads: reach without attention.

    Dilations of 2, 4 and 6 cells together reach 12 cells to both sides, which is a whole strip.

    Yu and Koltun, Multi-Scale Context Aggregation by Dilated Convolutions, 2016 (arXiv:1511.07122).
    """

    def __init__(self, channels: int, dilations: Sequence[int] = (2, 4, 6)) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation) for dilation in dilations
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + F.relu(norm(conv(x)))
        return x


class FlatAnswer(nn.Module):
    """All cells of a strip in one vector, and two linear layers: every place sees every other, by its own weights."""

    def __init__(self, channels: int, hidden: int, places: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels * places, hidden), nn.ReLU(), nn.Linear(hidden, 10 * places)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, places, channels)`` → logits ``(B, places, 10)``."""
        return self.layers(x.flatten(1)).unflatten(1, (x.shape[1], 10))


class StripHybrid(nn.Module):
    """A `HybridAttentionModel` that answers at each of its tokens instead of at their mean."""

    def __init__(self, *, positions: bool = True, places: int = 6) -> None:
        super().__init__()
        self.model = HybridAttentionModel(
            (1, 8, 8 * places), 10, positions=positions, width=WIDTH, depth=DEPTH, num_heads=HEADS,
            grid=(1, places), norm=True,
        )  # fmt: skip
        self.trunk, self.cells = self.model.cnn_backbone, self.model.flatten

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each place."""
        return self.model.classifier(self.model.tokens(x))


def strip_model(name: str) -> StripNet | StripHybrid:
    """One of `STRIP_MODELS`: all of about the same number of parameters, `"flat"` of eight times as many.

    Raises:
        ValueError: an unknown name.
    """
    if name == "cnn":
        return StripNet(FeatureMap(SmallCNN(None, CNN_WIDTHS)), nn.Linear(CNN_WIDTHS[2], 10))
    if name == "cbam":
        return StripNet(FeatureMap(SmallCNN("cbam", CBAM_WIDTHS)), nn.Linear(CBAM_WIDTHS[2], 10))
    if name == "self-attention":  # over the places of the last stage, which reaches the whole strip
        trunk = FeatureMap(SmallCNN("self-attention", ATTENTION_WIDTHS))
        return StripNet(trunk, nn.Linear(ATTENTION_WIDTHS[2], 10))
    if name == "cnn, deeper":
        trunk = FeatureMap(SmallCNN(None, DEEPER_WIDTHS))
        return StripNet(trunk, nn.Linear(DEEPER_WIDTHS[2], 10), far=Far(DEEPER_WIDTHS[2]))
    if name == "flat":
        return StripNet(FeatureMap(SmallCNN(None, DEEPER_WIDTHS)), FlatAnswer(DEEPER_WIDTHS[2], FLAT_HIDDEN))
    if name in ("hybrid", "hybrid, no positions"):
        return StripHybrid(positions=name == "hybrid")
    raise ValueError(f"unknown network {name!r}; known: {', '.join(STRIP_MODELS)}")


def parameters(model: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: nn.Module, image_shape: Sequence[int]) -> int:
    """FLOPs of one forward pass of one image ``(C, H, W)``, as torch counts them.

    Attention is counted in its plain form (torch's counter does not know the fused kernel of a CPU), and
    `SelfAttention2D` as trained: at its start, with ``gamma = 0``, it does nothing.
    """
    model = copy.deepcopy(model).cpu().eval()
    for module in model.modules():
        if isinstance(module, SelfAttention2D):
            nn.init.ones_(module.gamma)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(torch.zeros(1, *image_shape))
    return counter.get_total_flops()


# --- Training ----------------------------------------------------------------------------------------------


def train_images(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    description: str = "training",
) -> History:
    """Train a network in place on images ``(N, C, H, W)`` and classes ``(N,)``, or ``(N, places)`` for strips."""
    device = best_device()
    model.to(device)
    images, targets = images.to(device), targets.to(device)

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        batch = torch.randint(len(targets), (batch_size,), generator=generator).to(device)
        return F.cross_entropy(model(images[batch]).flatten(0, -2), targets[batch].flatten())

    history = train(model, loss, steps=steps, learning_rate=learning_rate, seed=seed, description=description)
    if history.interrupted:
        raise KeyboardInterrupt
    return history


def predicted(model: nn.Module, images: Tensor) -> Tensor:
    """The class of each image, or of each place of each strip, on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        return torch.cat([model(part.to(device)).argmax(dim=-1).cpu() for part in images.split(250)])


def accuracy(model: nn.Module, images: Tensor, targets: Tensor) -> float:
    """The share of right answers."""
    return (predicted(model, images) == targets).float().mean().item()


def centred(images: Tensor, like: Tensor) -> Tensor:
    """Images with mean 0 and spread 1 over ``like``."""
    return (images - like.mean()) / like.std()


# --- Data efficiency ---------------------------------------------------------------------------------------


def share_of(labels: Tensor, share: float, seed: int) -> Tensor:
    """Which training images a model gets: a share of each class, at least one, drawn by a seed.

    A larger share of the same seed holds the smaller one.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        chosen.append(members[: max(1, round(share * len(members)))])
    return torch.cat(chosen)


def image_task(name: str, source: Digits | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels of ``"digits"`` or ``"cluttered digits"``, centred."""
    if name == "cluttered digits":
        task = cluttered_digits(source=source)
        parts = (task.train.images, task.train.labels, task.test.images, task.test.labels)
    else:
        found = source or digits()
        parts = (found.train_images, found.train_labels, found.test_images, found.test_labels)
    images, labels, test_images, test_labels = parts
    return centred(images, images), labels, centred(test_images, images), test_labels


def efficiency_cell(
    task: str,
    name: str,
    share: float,
    seed: int,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    source: Digits | None = None,
) -> dict[str, Any]:
    """Train one of `IMAGE_MODELS` on a share of a task's training images."""
    images, labels, test_images, test_labels = image_task(task, source)
    kept = share_of(labels, share, seed)
    with seeded(seed):
        model = image_model(name, images.shape[1:])
    with seeded(seed):  # dropout
        history = train_images(
            model, images[kept], labels[kept], steps=steps, batch_size=batch_size,
            learning_rate=learning_rate, seed=seed, description=f"{name}, {share:.0%} of {task}",
        )  # fmt: skip
    return {
        "accuracy": round(accuracy(model, test_images, test_labels), 4),
        "train_accuracy": round(accuracy(model, images[kept], labels[kept]), 4),
        "loss": round(sum(history.losses[-50:]) / len(history.losses[-50:]), 4),
        "images": len(kept),
        "training_seconds": round(history.seconds, 1),
    }


def run_data_efficiency(seed: int, **settings: Any) -> tuple[dict[str, Any], None]:
    """Every network on every share of every task: accuracy ``[task][share][network]``."""
    found: dict[str, Any] = {
        "accuracy": {},
        "train_accuracy": {},
        "loss": {},
        "images": {},
        "network_seconds": {},
    }
    for task, plan in settings["tasks"].items():
        for share in settings["shares"]:
            cells = {
                name: efficiency_cell(
                    task, name, share, seed, steps=plan["steps"], batch_size=plan["batch_size"],
                    learning_rate=rate,
                )
                for name, rate in plan["learning_rates"].items()
            }  # fmt: skip
            for key, into in (
                ("accuracy", "accuracy"), ("train_accuracy", "train_accuracy"), ("loss", "loss"),
                ("images", "images"), ("training_seconds", "network_seconds"),
            ):  # fmt: skip
                values = {name: cell[key] for name, cell in cells.items()}
                found[into].setdefault(task, {})[str(share)] = values
    shapes = {"digits": (1, 8, 8), "cluttered digits": (1, 32, 32)}
    for key, count in (("parameters", lambda model, shape: parameters(model)), ("flops", flops)):
        found[key] = {
            task: {name: count(image_model(name, shapes[task]), shapes[task]) for name in IMAGE_MODELS}
            for task in settings["tasks"]
        }
    return found, None


def run_longer(seed: int, **settings: Any) -> tuple[dict[str, Any], None]:
    """One network on all images of a task, given more steps."""
    return efficiency_cell(settings["task"], settings["network"], 1.0, seed, **settings["plan"]), None


def run_without_norm(seed: int, **settings: Any) -> tuple[dict[str, Any], None]:
    """The hybrid without batch normalisation, at several learning rates: each entry by the rate."""
    found: dict[str, dict[str, Any]] = {}
    for rate in settings["rates"]:
        cell = efficiency_cell(
            settings["task"], "hybrid, no norm", 1.0, seed, learning_rate=rate, **settings["plan"]
        )
        for key in ("accuracy", "train_accuracy", "loss"):
            found.setdefault(key, {})[str(rate)] = cell[key]
    return found, None


# --- Strips ------------------------------------------------------------------------------------------------


def strip_cell(
    name: str,
    seed: int,
    *,
    mirrored: bool,
    steps: int,
    batch_size: int,
    learning_rate: float,
    warm_up_steps: int = 0,
    task: StripTask | None = None,
) -> tuple[dict[str, Any], StripNet | StripHybrid]:
    """Train one of `STRIP_MODELS` to name, at each place of a strip, the digit there or at the mirrored place.

    The warm-up trains the convolutions alone, through a linear layer that is thrown away, to name the digit at each
    place; then the whole network learns its task.
    """
    task = task or digit_strips()
    images, test_images = (centred(part.images, task.train.images) for part in (task.train, task.test))
    targets, test_targets = (
        part.labels.flip(1) if mirrored else part.labels for part in (task.train, task.test)
    )
    with seeded(seed):
        network = strip_model(name)
    found: dict[str, Any] = {}
    plan: dict[str, Any] = {"batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    with seeded(seed):
        if warm_up_steps:
            channels = network.trunk(images[:1]).shape[1]
            warm = StripNet(network.trunk, nn.Linear(channels, 10), places=targets.shape[1])
            train_images(
                warm, images, task.train.labels, steps=warm_up_steps, description=f"{name}, warm-up", **plan
            )
            found["warm_up_accuracy"] = round(accuracy(warm, test_images, task.test.labels), 4)
        history = train_images(network, images, targets, steps=steps, description=name, **plan)
    right = predicted(network, test_images) == test_targets
    return {
        **found,
        "accuracy": round(right.float().mean().item(), 4),
        "by_place": [round(value, 4) for value in right.float().mean(dim=0).tolist()],
        "loss": round(sum(history.losses[-50:]) / len(history.losses[-50:]), 4),
        "seconds": round(history.seconds, 1),
    }, network


def run_strips(seed: int, **settings: Any) -> tuple[dict[str, Any], nn.Module | None]:
    """Every network on one task of strips; of the hybrid, the model is kept."""
    found: dict[str, dict[str, Any]] = {}
    kept = None
    plan = {key: settings[key] for key in ("mirrored", "steps", "batch_size", "warm_up_steps")}
    task = digit_strips()
    for name, rate in settings["learning_rates"].items():
        cell, network = strip_cell(name, seed, learning_rate=rate, task=task, **plan)
        cell |= {"parameters": parameters(network), "flops": flops(network, (1, 8, 48))}
        for key, value in cell.items():
            found.setdefault("network_seconds" if key == "seconds" else key, {})[name] = value
        if isinstance(network, StripHybrid) and network.model.positions is not None and settings["mirrored"]:
            kept = network.model
    return found, kept


# --- Learning rates ----------------------------------------------------------------------------------------


def run_image_rates(seed: int, **settings: Any) -> tuple[dict[str, Any], None]:
    """Every network at several learning rates, judged by training digits that are held out."""
    source = held_out(digits())
    tried = [
        {
            "task": task, "network": name, "learning_rate": rate,
            "accuracy": efficiency_cell(
                task, name, settings["share"], seed, steps=plan["steps"], batch_size=plan["batch_size"],
                learning_rate=rate, source=source,
            )["accuracy"],
        }
        for task, plan in settings["tasks"].items()
        for name in IMAGE_MODELS
        for rate in settings["rates"]
    ]  # fmt: skip
    return {"tried": tried}, None


def run_strip_rates(seed: int, **settings: Any) -> tuple[dict[str, Any], None]:
    """Every network on the mirrored strip at several learning rates, judged by held-out training digits."""
    task = digit_strips(source=held_out(digits()))
    plan = {key: settings[key] for key in ("mirrored", "steps", "batch_size", "warm_up_steps")}
    tried = []
    for name in STRIP_MODELS:
        for rate in settings["rates"]:
            cell, _ = strip_cell(name, seed, learning_rate=rate, task=task, **plan)
            tried.append({"network": name, "learning_rate": rate, "accuracy": cell["accuracy"]})
    return {"tried": tried}, None


# --- The experiments ---------------------------------------------------------------------------------------

RATES_SEED = 100
"""Not among the seeds of the comparisons."""

IMAGE_TRAINING: dict[str, dict[str, Any]] = {
    "digits": {"steps": 600, "batch_size": 32},
    "cluttered digits": {"steps": 600, "batch_size": 32},
}
STRIP_TRAINING: dict[str, Any] = {"steps": 300, "batch_size": 64}

IMAGE_RATES = {
    "digits": {"cnn": 0.001, "cbam": 0.003, "hybrid": 0.003, "vit": 0.01},
    "cluttered digits": {"cnn": 0.01, "cbam": 0.01, "hybrid": 0.003, "vit": 0.003},
}
STRIP_RATES = {
    "cnn": 0.002,
    "cnn, deeper": 0.004,
    "cbam": 0.004,
    "self-attention": 0.004,
    "hybrid": 0.004,
    "hybrid, no positions": 0.004,
    "flat": 0.002,
}
"""The best of those tried, by the records whose names end in ``-rates``."""

EXPERIMENTS = (
    Experiment(
        name="data-efficiency",
        hypothesis="With few images convolutions win, with many attention catches up; the hybrid is never the worst.",
        run=run_data_efficiency,
        settings={
            "shares": [0.05, 0.2, 1.0],
            "tasks": {
                task: {**plan, "learning_rates": IMAGE_RATES[task]} for task, plan in IMAGE_TRAINING.items()
            },
        },
    ),
    Experiment(
        name="data-efficiency-longer",
        hypothesis="Given five times the steps, the vision transformer comes to what the others reach.",
        run=run_longer,
        settings={
            "task": "cluttered digits",
            "network": "vit",
            "plan": {"steps": 3000, "batch_size": 32, "learning_rate": 0.001},
        },
    ),
    Experiment(
        name="hybrid-without-norm",
        hypothesis="The hybrid as the document has it learns cluttered digits as well as with batch normalisation.",
        run=run_without_norm,
        settings={
            "task": "cluttered digits",
            "plan": IMAGE_TRAINING["cluttered digits"],
            "rates": [0.0003, 0.001, 0.003],
        },
    ),
    Experiment(
        name="mirrored-strip",
        hypothesis="Only what carries something from one end of a strip to the other can name the mirrored digit.",
        run=run_strips,
        settings={
            **STRIP_TRAINING,
            "mirrored": True,
            "warm_up_steps": 300,
            "learning_rates": STRIP_RATES,
        },
    ),
    Experiment(
        name="own-place-strip",
        hypothesis="Where each place can be answered by itself, reach gains nothing.",
        run=run_strips,
        settings={
            **STRIP_TRAINING,
            "mirrored": False,
            "warm_up_steps": 0,
            "learning_rates": STRIP_RATES,
        },
    ),
    Experiment(
        name="data-efficiency-rates",
        hypothesis="Each network has a learning rate of its own; it is looked for on training images alone.",
        run=run_image_rates,
        settings={"share": 0.2, "rates": [0.001, 0.003, 0.01], "tasks": IMAGE_TRAINING},
        seeds=(RATES_SEED,),
    ),
    Experiment(
        name="mirrored-strip-rates",
        hypothesis="Each network has a learning rate of its own on the strip too.",
        run=run_strip_rates,
        settings={**STRIP_TRAINING, "mirrored": True, "warm_up_steps": 300, "rates": [0.001, 0.002, 0.004]},
        seeds=(RATES_SEED,),
    ),
)
