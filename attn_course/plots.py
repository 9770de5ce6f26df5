"""Figures: one look for the whole book, one colour per mechanism.

Maps are drawn with queries down, keys across, and the origin at the top, on one scale from 0 to 1 unless said
otherwise. The colours are Okabe and Ito's, which stay apart for colour-blind readers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, ListedColormap, LogNorm
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
    "none": "#7A7A7A",
    "sinusoidal": "#0072B2",
    "learned": "#CC79A7",
    "rotary": "#009E73",
    "ALiBi": "#D55E00",
    "plain CNN": "#7A7A7A",
    "squeeze-and-excitation": "#56B4E9",
    "efficient channel attention": "#0072B2",
    "CBAM": "#D55E00",
    "SelfAttention2D": "#009E73",
    "AttentionCNN": "#CC79A7",
    "average": "#0072B2",
    "max": "#D55E00",
    "both": "#009E73",
    "plain, no norm": "#56B4E9",
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


def dots_against_chance(axis: Axes, table: Any, *, x: str, y: str, chance: str) -> None:
    """One dot for each row of ``table``, coloured by seed, and a dash at the mean of the column ``chance``."""
    sns.stripplot(table, x=x, y=y, hue="seed", palette="dark:#56B4E9", size=6, legend=False, ax=axis)
    sns.pointplot(
        table,
        x=x,
        y=chance,
        color=COLOURS["baseline"],
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


def score_maps(
    maps: Sequence[Tensor], titles: Sequence[str], *, label: str = "score", side: float = 2.6
) -> Figure:
    """Maps of scores or of a bias side by side, ``(n_q, n_k)`` each, on one scale from the least to the largest."""
    low, high = min(x.min().item() for x in maps), max(x.max().item() for x in maps)
    figure, axes = plt.subplots(1, len(maps), figsize=(side * len(maps) + 0.8, side + 0.5), squeeze=False)
    image: Any = None
    for axis, scores, title in zip(axes[0], maps, titles, strict=True):
        image = axis.imshow(scores.detach().float().cpu().numpy(), cmap=MAP_COLOURS, vmin=low, vmax=high)
        axis.set(title=title, xlabel="key")
    axes[0][0].set_ylabel("query")
    figure.colorbar(image, ax=axes[0], label=label, shrink=0.8)
    return figure


def log_maps(maps: Sequence[Tensor], titles: Sequence[str], *, floor: float = 1e-4) -> Figure:
    """Square maps side by side, each relative to its largest value, on one logarithmic scale; black: exactly 0."""
    figure, axes = plt.subplots(1, len(maps), figsize=(2.25 * len(maps), 2.7), squeeze=False)
    colours = plt.get_cmap(MAP_COLOURS).with_extremes(bad="black")
    for axis, values, title in zip(axes[0], maps, titles, strict=True):
        relative = (values / values.max()).cpu().numpy()
        shown = np.ma.masked_equal(relative, 0).clip(min=floor)
        image = axis.imshow(shown, cmap=colours, norm=LogNorm(floor, 1))
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.colorbar(image, ax=axes[0], label="gradient, relative", shrink=0.75)
    return figure


def number_maps(groups: Mapping[str, Sequence[Tensor]], *, side: float = 1.25) -> Figure:
    """Small maps with their numbers written in, in groups that have a title; shaded on one scale of their own each."""
    widths = [len(maps) for maps in groups.values()]
    figure = plt.figure(figsize=(side * sum(widths) + 0.5, side + 0.55))
    parts = list(figure.subfigures(1, len(widths), width_ratios=widths, squeeze=False).flat)
    for part, (title, maps) in zip(parts, groups.items(), strict=True):
        part.suptitle(title, fontsize=10)
        axes = part.subplots(1, len(maps), squeeze=False)[0]
        largest = max(values.max().item() for values in maps)
        for channel, (axis, values) in enumerate(zip(axes, maps, strict=True)):
            axis.imshow(values.detach().numpy(), cmap=MAP_COLOURS, vmin=0, vmax=largest)
            for (row, column), value in _fields(values):
                colour = "white" if value < 0.55 * largest else "black"
                text = f"{value:.0f}" if value == round(value) else f"{value:.2f}"
                axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
            axis.set(xticks=[], yticks=[], xlabel=f"channel {channel}" if len(maps) > 1 else "each pixel")
    return figure


def pictures(
    images: Sequence[Tensor],
    titles: Sequence[str],
    *,
    mark: tuple[int, int] | None = None,
    side: float = 1.85,
) -> Figure:
    """Pictures ``(3, H, W)`` and maps ``(H, W)`` side by side; ``mark`` rings one pixel, row and column, in each."""
    figure, axes = plt.subplots(1, len(images), figsize=(side * len(images), side + 0.4), squeeze=False)
    for axis, image, title in zip(axes[0], images, titles, strict=True):
        show_picture(axis, image)
        axis.set_title(title, fontsize=10)
        if mark is not None:
            axis.plot(mark[1], mark[0], "o", markersize=9, mfc="none", mec="#D55E00", mew=1.6)
    return figure


def show_picture(axis: Axes, image: Tensor) -> None:
    """A picture ``(3, H, W)`` from 0 to 1 (what lies beyond is cut), or a map ``(H, W)`` from 0 to its largest."""
    if image.ndim == 3:
        axis.imshow(image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy())
    else:
        axis.imshow(image.detach().cpu().numpy(), cmap=MAP_COLOURS, vmin=0)
    axis.set_axis_off()


def pictures_and_charts(
    rows: int, columns: int, *widths: float, height: float = 3.0, total: float = 9.2
) -> tuple[Figure, list[list[Axes]], list[Axes]]:
    """An empty figure: a grid of square pictures (by row), and beside it charts of these relative widths."""
    figure = plt.figure(figsize=(total, height))
    wide = columns * height / rows
    left, right = figure.subfigures(1, 2, width_ratios=[wide, total - wide], squeeze=False)[0]
    grid = left.subplots(rows, columns, squeeze=False).tolist()
    charts = right.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0].tolist()
    return figure, grid, charts


def dots_and_means(
    axis: Axes, table: Any, *, x: str, y: str, hue: str, chance: str | None = None, legend: bool = True
) -> None:
    """One dot for each row of ``table``, and a bar at the mean of each place; ``hue`` picks the colours.

    ``chance`` names a column to compare with: a grey bar at its mean, in the same place.
    """
    upright = table[x].dtype.kind == "f"  # the numbers go across, the names down
    number = x if upright else y
    dots: dict[str, Any] = {"x": x, "y": y, "hue": hue, "palette": COLOURS, "ax": axis}
    bars = {**dots, "linestyle": "none", "marker": "|" if upright else "_", "errorbar": None, "legend": False}
    if hue not in (x, y):
        dots["dodge"], bars["dodge"] = True, 0.8 * (1 - 1 / table[hue].nunique())
    if chance is not None:
        grey = {name: "#B5B5B5" for name in table[hue].unique()}
        compared = {**bars, "x" if upright else "y": chance, "palette": grey}
        sns.pointplot(table, markersize=7, markeredgewidth=3, **compared)
    sns.stripplot(
        table, size=4, alpha=0.7, jitter=False, zorder=2, legend=legend and hue not in (x, y), **dots
    )
    sns.pointplot(table, markersize=10, markeredgewidth=1.5, **bars)
    (axis.set_xlabel if upright else axis.set_ylabel)(number)


def before_and_after(
    picture: Tensor, before: Mapping[str, Tensor], after: Mapping[str, Tensor], titles: Sequence[str]
) -> Figure:
    """A grey picture, and two rows of maps of ratios: what became of each pixel, untrained and trained; NaN: grey."""
    figure, axes = plt.subplots(2, len(before) + 1, figsize=(9.4, 3.0))
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].imshow(picture.cpu().numpy(), cmap="gray")
    axes[0, 0].set_title("Photograph", fontsize=10)
    colours = plt.get_cmap("RdBu").with_extremes(bad="#B5B5B5")
    image: Any = None
    for row, maps in enumerate((before, after)):
        for axis, name, title in zip(axes[row, 1:], maps, titles, strict=True):
            image = axis.imshow(
                maps[name].cpu().numpy(), cmap=colours, norm=CenteredNorm(1, 1), interpolation="nearest"
            )
            mean = maps[name].nanmean().item()
            axis.set_title(f"{title}: {mean:.2f}" if row == 0 else f"trained: {mean:.2f}", fontsize=10)
    figure.colorbar(image, ax=axes, label="size after / before", shrink=0.8)
    return figure


def outline(axis: Axes, mask: Tensor, colour: str = "#D55E00") -> None:
    """The outline of a mask ``(H, W)`` over a picture."""
    axis.contour(mask.float().cpu().numpy(), levels=[0.5], colors=[colour], linewidths=1)


def lines_by_length(axis: Axes, table: Any, *, y: str, hue: str) -> None:
    """``y`` against the column ``length``, a line for each ``hue``: mean and range over the other columns."""
    lengths = sorted(table["length"].unique())
    sns.lineplot(table, x="length", y=y, hue=hue, palette=COLOURS, errorbar=("pi", 100), marker="o", ax=axis)
    axis.set_xscale("log")
    axis.set_xticks(lengths, [str(length) for length in lengths])
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
