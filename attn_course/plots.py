"""Figures: one look for the whole book, one colour per mechanism.

Maps are drawn with queries down, keys across, and the origin at the top, on one scale from 0 to 1 unless said
otherwise. The colours are Okabe and Ito's, which stay apart for colour-blind readers.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

COLOURS = {
    "attention": "#0072B2",
    "fused attention": "#56B4E9",
    "textbook": "#D55E00",
    "baseline": "#7A7A7A",
    "projections": "#009E73",
    "scores": "#0072B2",
    "weighted sum": "#56B4E9",
    "feed-forward": "#CC79A7",
    "pre-norm": "#0072B2",
    "post-norm": "#D55E00",
    "with the scale": "#0072B2",
    "without it": "#D55E00",
}
"""What is drawn -> its colour, on every page."""

MAP_COLOURS = "cividis"
_ALLOWED = ListedColormap(["#E9E6DF", "#0072B2"])


def use_house_style() -> None:
    """Set the look of every figure that follows: sizes, fonts, colours, a white ground."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        rc={
            "figure.figsize": (7.0, 3.4),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(
                color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#7A7A7A"]
            ),
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.fontsize": 9,
            "legend.frameon": False,
        },
    )


def attention_maps(
    maps: Sequence[Tensor],
    titles: Sequence[str],
    *,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    values: bool = False,
    largest: float = 1.0,
    side: float = 2.4,
) -> Figure:
    """Attention maps side by side on one scale.

    Args:
        maps: ``(n_q, n_k)`` each.
        titles: one for each map.
        queries, keys: the tokens, down and across.
        values: write the weight into each field, for small maps.
        largest: the weight at the bright end of the scale.
        side: inches of each map.
    """
    figure, axes = plt.subplots(1, len(maps), figsize=(side * len(maps) + 0.8, side + 0.5), squeeze=False)
    image: Any = None
    for axis, weights, title in zip(axes[0], maps, titles, strict=True):
        image = axis.imshow(
            weights.detach().float().cpu().numpy(), cmap=MAP_COLOURS, vmin=0, vmax=largest, aspect="auto"
        )
        axis.set_title(title)
        _token_ticks(axis, queries if axis is axes[0][0] else None, keys)
        if values:
            for (row, column), value in _fields(weights):
                colour = "white" if value < 0.55 * largest else "black"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    axes[0][0].set_ylabel("query")
    figure.supxlabel("key", fontsize=10)
    figure.colorbar(image, ax=axes[0], label="weight", shrink=0.9)
    return figure


def masks(masks: Sequence[Tensor], titles: Sequence[str], *, side: float = 1.9) -> Figure:
    """Masks side by side: coloured where a query may attend, pale where not."""
    figure, axes = plt.subplots(1, len(masks), figsize=(side * len(masks) + 0.3, side + 0.6), squeeze=False)
    for axis, mask, title in zip(axes[0], masks, titles, strict=True):
        axis.imshow(mask.cpu().numpy(), cmap=_ALLOWED, vmin=0, vmax=1)
        axis.set_title(title)
        axis.set_xticks([x - 0.5 for x in range(1, mask.shape[1])], minor=True)
        axis.set_yticks([y - 0.5 for y in range(1, mask.shape[0])], minor=True)
        axis.grid(which="minor", color="white", linewidth=1)
        axis.tick_params(which="both", length=0)
        axis.set_xticks(range(mask.shape[1]))
        axis.set_yticks(range(mask.shape[0]))
        axis.set_xlabel("key")
        for spine in axis.spines.values():
            spine.set_visible(False)
    axes[0][0].set_ylabel("query")
    return figure


def split_attend_merge(projected: Tensor, maps: Tensor, merged: Tensor) -> Figure:
    """What heads do, from left to right: channels are split, each head attends, the results lie side by side.

    Args:
        projected: ``(n, d_model)``, the values before they are split.
        maps: ``(h, n, n)``, the weights of each head.
        merged: ``(n, d_model)``, what comes out, before the last projection.
    """
    num_heads, d_k = len(maps), merged.shape[1] // len(maps)
    largest = max(projected.abs().max().item(), merged.abs().max().item())
    figure, axes = plt.subplots(
        1, num_heads + 2, figsize=(9, 2.4), width_ratios=[1.6, *[1.0] * num_heads, 1.6]
    )
    for axis, channels, title in ((axes[0], projected, "Split: values"), (axes[-1], merged, "Merge: output")):
        axis.imshow(channels.detach().cpu().numpy(), cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
        for head in range(1, num_heads):
            axis.axvline(head * d_k - 0.5, color="black", linewidth=1.5)
        axis.set_xticks(
            [(head + 0.5) * d_k - 0.5 for head in range(num_heads)], [f"head {i}" for i in range(num_heads)]
        )
        axis.set(title=title, xlabel="channel", ylabel="token", yticks=[])
        axis.tick_params(length=0)
    for head, (axis, weights) in enumerate(zip(axes[1:-1], maps, strict=True)):
        axis.imshow(weights.detach().cpu().numpy(), cmap=MAP_COLOURS, vmin=0, vmax=1, aspect="auto")
        axis.set(
            title=f"Attend: head {head}",
            xlabel="key",
            ylabel="query" if head == 0 else None,
            xticks=[],
            yticks=[],
        )
    return figure


def dots_against_chance(axis: Axes, table: Any, *, x: str, y: str, chance: str, legend: bool = False) -> None:
    """One dot for each row of ``table``, coloured by seed, and a dash at the mean of the column ``chance``."""
    sns.stripplot(table, x=x, y=y, hue="seed", palette="dark:#56B4E9", size=6, legend=legend, ax=axis)
    sns.pointplot(
        table,
        x=x,
        y=chance,
        color="#D55E00",
        linestyle="none",
        marker="_",
        markersize=30,
        errorbar=None,
        ax=axis,
    )


def log_axes(axis: Axes, ticks: Sequence[int], **names: str) -> None:
    """Both axes logarithmic, with these ``ticks`` across, written out."""
    axis.set(xscale="log", yscale="log", **names)
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()


def _token_ticks(axis: Axes, queries: Sequence[str] | None, keys: Sequence[str] | None) -> None:
    axis.tick_params(length=0)
    for set_ticks, tokens in ((axis.set_yticks, queries), (axis.set_xticks, keys)):
        if tokens is None:
            set_ticks([])
        else:
            set_ticks(range(len(tokens)), [_visible(token) for token in tokens])


def _visible(token: str) -> str:
    return {"\n": "↵", " ": "·"}.get(token, token)


def _fields(weights: Tensor) -> list[tuple[tuple[int, int], float]]:
    return [((i, j), value) for i, row in enumerate(weights.tolist()) for j, value in enumerate(row)]
