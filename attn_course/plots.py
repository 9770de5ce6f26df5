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
    "channel attention": "#CC79A7",
    "convolution": "#7A7A7A",
    "decoding step": "#009E73",
    "leading term": "#7A7A7A",
    "FLOPs": "#0072B2",
    "elementwise": "#D55E00",
    "full attention": "#0072B2",
    "window": "#D55E00",
    "hybrid": "#0072B2",
    "hybrid, no positions": "#56B4E9",
    "vision transformer": "#CC79A7",
    "dilated CNN": "#E69F00",
    "flat layer": "#000000",
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


def benchmark_ratios(record: Mapping[str, Any]) -> Figure:
    """A benchmark's file: a line for each case, a mark for each peer's time over ours, with its interval.

    The grey bar is the control's interval: what lies within it is not told apart from ours. A case that was not
    measured says why.
    """
    rows = record["rows"]
    named = (name for row in rows for name in row["peers"] if name != f"{row['ours']} (control)")
    peers = [name for name in dict.fromkeys(named) if name not in {row["ours"] for row in rows}]
    shades = sns.color_palette(["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#7A7A7A"], len(peers))
    look = dict(zip(peers, zip(shades, ("oDsv^P<>X*" * len(peers))[: len(peers)], strict=True), strict=True))
    figure, axis = plt.subplots(figsize=(9.4, 1.6 + 0.26 * len(rows)), layout="constrained")
    for line, row in enumerate(rows):
        if row["status"] != "measured":
            axis.annotate(row["status"], (1, line), fontsize=8, color="#555555", va="center")
            continue
        control = row["peers"].get(f"{row['ours']} (control)")
        if control:
            ratio = control["time_ratio"]
            axis.hlines(line, ratio["low"], ratio["high"], color="#B5B5B5", linewidth=7, zorder=1)
        for name, peer in row["peers"].items():
            if name in look:
                ratio, (colour, marker) = peer["time_ratio"], look[name]
                axis.plot([ratio["low"], ratio["high"]], [line, line], color=colour, linewidth=1.2, zorder=2)
                axis.plot(ratio["median"], line, marker, color=colour, markersize=5, zorder=3)
    axis.axvline(1, color="#333333", linewidth=0.8, zorder=0)
    axis.set(xscale="log", ylim=(len(rows) - 0.4, -0.6), xlabel="time / ours (right of 1: ours is faster)")
    low, high = axis.get_xlim()
    ticks = [value for value in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= value <= high]
    axis.set_xticks(ticks, [f"{value:g}" for value in ticks])
    axis.minorticks_off()
    axis.grid(axis="x", color="#E6E6E6")
    axis.set_axisbelow(True)
    axis.set_yticks(range(len(rows)), [row["case"] for row in rows], fontsize=7)
    axis.set_title(f"{record['name']}: {record['conditions']['machine']}", loc="right", fontsize=10)
    for name, (colour, marker) in look.items():
        axis.plot([], [], marker, color=colour, markersize=5, label=name)
    axis.plot([], [], color="#B5B5B5", linewidth=7, label="control: ours again")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def shares_by_length(shares: Any, crossover: int, title: str) -> Figure:
    """Stacked shares of a table, one column for each part, against its index, a length; dashed at the crossover."""
    figure, axis = plt.subplots()
    colours = [COLOURS[part] for part in shares.columns]
    axis.stackplot(shares.index, shares.to_numpy().T, labels=list(shares.columns), colors=colours, alpha=0.85)
    axis.axvline(crossover, color="black", linestyle="--", linewidth=1)
    axis.annotate(f" n = {crossover:,}", (crossover, 0.04), color="black", fontsize=9)
    axis.set(xscale="log", xlim=(shares.index[0], shares.index[-1]), ylim=(0, 1), xlabel="length $n$")
    ticks = shares.index[::2]
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.set(ylabel="share of FLOPs", title=title)
    figure.legend(loc="outside lower center", ncols=len(shares.columns))
    return figure


def grouped_bars(table: Any, ylabel: str, title: str) -> Figure:
    """A group of bars for each row of a table, one for each column, on a logarithmic axis with the numbers above."""
    figure, axis = plt.subplots()
    width = 0.8 / len(table.columns)
    for i, column in enumerate(table.columns):
        places = [row + (i - (len(table.columns) - 1) / 2) * width for row in range(len(table))]
        bars = axis.bar(places, table[column], width, label=column, color=COLOURS.get(column))
        axis.bar_label(bars, [_short(value) for value in table[column]], fontsize=8, padding=2)
    axis.set_xticks(range(len(table)), list(table.index))
    axis.set(yscale="log", ylabel=ylabel, title=title)
    axis.minorticks_off()
    axis.margins(y=0.12)
    figure.legend(loc="outside lower center", ncols=len(table.columns))
    return figure


def predicted_lines_measured_dots(table: Any, *, x: str, hue: str, y: str, title: str) -> Figure:
    """Columns ``predicted`` (lines) and ``measured`` (dots) against ``x``, one line for each ``hue``; both logarithmic.

    What comes before a comma in the name of a line is its colour in `COLOURS`; with a comma it is dashed.
    """
    figure, axis = plt.subplots()
    for name, rows in table.groupby(hue, sort=False):
        kind, *more = name.split(", ")
        colour, style = COLOURS[kind], "--" if more else "-"
        axis.plot(rows[x], rows["predicted"], style, color=colour, label=name)
        axis.plot(rows[x], rows["measured"], "o", color=colour, markersize=5)
    log_axes(axis, sorted(table[x].unique()), xlabel=f"length ${x}$", ylabel=y, title=title)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def roofline(points: Mapping[str, tuple[float, float]], hardware: Any, title: str) -> Figure:
    """The roof of a machine, and what ran under it: intensity (FLOPs per byte) against the GFLOP/s that were reached.

    Args:
        points: name -> (intensity, FLOP/s); a name's colour is that in `COLOURS`.
        hardware: has ``peak_flops`` and ``bandwidth``, as `complexity.Hardware`.
        title: of the figure.
    """
    figure, axis = plt.subplots(figsize=(7.0, 3.9))
    ridge = hardware.peak_flops / hardware.bandwidth
    low = min([ridge, *(intensity for intensity, _ in points.values())]) / 4
    high = max([ridge, *(intensity for intensity, _ in points.values())]) * 4
    roof = [low * hardware.bandwidth, hardware.peak_flops, hardware.peak_flops]
    axis.plot([low, ridge, high], [rate / 1e9 for rate in roof], color="black", label="bound")
    axis.axvline(ridge, color="#7A7A7A", linestyle=":", linewidth=1)
    for name, (intensity, rate) in points.items():
        axis.plot(intensity, rate / 1e9, "o", color=COLOURS[name], markersize=8, label=name)
    axis.set(xscale="log", yscale="log", xlabel="FLOPs per byte", ylabel="GFLOP/s", title=title)
    axis.minorticks_off()
    axis.annotate(
        "memory binds", (ridge, 0.03), (-6, 0), ("data", "axes fraction"), "offset points", ha="right"
    )
    axis.annotate("arithmetic binds", (ridge, 0.03), (6, 0), ("data", "axes fraction"), "offset points")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def predicted_and_measured_ratios(
    names: Sequence[str], predicted: Sequence[float], measured: Sequence[Any], noise: Any, title: str
) -> Figure:
    """Bars of predicted ratios, dots with intervals of measured ones (`benchmark.Ratio`), dashed lines at the noise."""
    figure, axis = plt.subplots()
    axis.bar(names, predicted, width=0.55, color="#56B4E9", label="bytes moved, predicted")
    for place, ratio in enumerate(measured):
        axis.plot([place, place], [ratio.low, ratio.high], color="black", linewidth=1.5)
    medians = [ratio.median for ratio in measured]
    axis.plot(names, medians, "o", color="black", label="time, measured, and its interval")
    for bound, label in ((noise.low, "the same code twice"), (noise.high, None)):
        axis.axhline(bound, color="#7A7A7A", linestyle="--", linewidth=1, label=label)
    axis.set(xlabel="heads of keys and values", ylabel=f"relative to {names[0]}", title=title)
    axis.set_ylim(0, None)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def heads_by_entropy_and_distance(heads: Any, blind: tuple[float, float], title: str) -> Figure:
    """Columns ``entropy`` and ``distance`` of ``heads``, a colour for each ``layer``, the ``head``'s number in its dot.

    A cross stands for a uniform head.
    """
    figure, axis = plt.subplots()
    palette = dict(zip(sorted(heads["layer"].unique()), ("#0072B2", "#D55E00", "#009E73"), strict=False))
    sns.scatterplot(heads, x="entropy", y="distance", hue="layer", palette=palette, s=150, ax=axis)
    for head in heads.itertuples():
        place = (head.entropy, head.distance)
        axis.annotate(str(head.head), place, color="white", fontsize=8, ha="center", va="center")
    axis.plot(*blind, "x", color="black", markersize=9, markeredgewidth=2)
    axis.annotate(
        "all of the past alike", blind, (-10, 0), textcoords="offset points", ha="right", va="center"
    )
    axis.set(xlabel="entropy (nats)", ylabel="distance (places)", title=title)
    axis.set(xlim=(0, 1.06 * max(blind[0], heads["entropy"].max())))
    axis.set(ylim=(0, 1.08 * max(blind[1], heads["distance"].max())))
    return figure


def readings(readings: Mapping[str, Sequence[float]], truth: float, title: str) -> Figure:
    """Times in seconds as dots, a line for each way to read them, on a logarithmic axis; dashed: the ``truth``."""
    figure, axis = plt.subplots(figsize=(7.0, 0.9 + 0.42 * len(readings)))
    for line, seconds in enumerate(readings.values()):
        axis.plot([value * 1e3 for value in seconds], [line] * len(seconds), "o", color="#0072B2", alpha=0.7)
    axis.axvline(truth * 1e3, color="black", linestyle="--", linewidth=1)
    axis.set(xscale="log", ylim=(len(readings) - 0.5, -0.5), xlabel="milliseconds", title=title)
    axis.set_yticks(range(len(readings)), list(readings))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return figure


def one_by_one_and_in_turns(
    one_by_one: Mapping[str, Sequence[float]], in_turns: Mapping[str, Sequence[float]], titles: Sequence[str]
) -> Figure:
    """Samples in seconds against the number of the call: all of one peer and then all of the next, and in turns."""
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.0), sharey=True)
    for axis, samples, title, turns in zip(axes, (one_by_one, in_turns), titles, (False, True), strict=True):
        for place, (name, seconds) in enumerate(samples.items()):
            calls = [
                call * len(samples) + place if turns else place * len(seconds) + call
                for call in range(len(seconds))
            ]
            axis.plot(calls, [value * 1e3 for value in seconds], "os"[place % 2], markersize=3, label=name)
        axis.set(xlabel="call", title=title)
    axes[0].set_ylabel("milliseconds")
    axes[0].legend(loc="upper left")
    return figure


def log_log_lines(
    table: Any, *, x: str, y: str, hue: str, title: str, mark: Mapping[str, float] | None = None
) -> Figure:
    """``y`` against ``x``, a line for each ``hue``, both axes logarithmic.

    With a column ``live``, rows where it is False make the line and hollow dots, the others are filled dots.
    ``mark`` draws vertical lines, by name.
    """
    figure, axis = plt.subplots()
    for name, rows in table.groupby(hue, sort=False):
        rows = rows.sort_values(x)
        live = rows["live"].astype(bool) if "live" in rows else rows[x] == rows[x]
        drawn = rows if live.all() else rows[~live]
        (line,) = axis.plot(drawn[x], drawn[y], linewidth=1, label=name)
        axis.plot(rows[x][live], rows[y][live], "o", color=line.get_color(), markersize=6)
        axis.plot(rows[x][~live], rows[y][~live], "o", color=line.get_color(), markersize=6, mfc="white")
    log_axes(axis, sorted(table[x].unique()), xlabel=x, ylabel=y)
    for number, (name, place) in enumerate((mark or {}).items()):
        axis.axvline(place, color="#7A7A7A", linestyle=("--", ":")[number % 2], linewidth=1, label=name)
    axis.set_title(title)
    figure.legend(loc="outside right center")
    return figure


def bound_and_measured(tables: Mapping[str, Any]) -> Figure:
    """Columns ``bound`` and ``measured`` (seconds), a dot for each row, an axis for each machine; colour: ``binds``.

    On the solid line a row would be as fast as the machine allows; dashed: ten times as long.
    """
    figure, axes = plt.subplots(1, len(tables), figsize=(3.6 * len(tables) + 1.8, 3.6), squeeze=False)
    every = [
        value for table in tables.values() for column in ("bound", "measured") for value in table[column]
    ]
    low, high = min(every) / 2, max(every) * 2
    shades = {"arithmetic": "#D55E00", "bytes": "#0072B2"}
    for axis, (machine, table) in zip(axes[0], tables.items(), strict=True):
        axis.plot([low, high], [low, high], color="black", linewidth=1)
        axis.plot([low, high], [10 * low, 10 * high], color="#7A7A7A", linestyle="--", linewidth=1)
        for binds, colour in shades.items():
            rows = table[table["binds"] == binds]
            axis.plot(
                rows["bound"], rows["measured"], "o", color=colour, markersize=5, alpha=0.75, label=binds
            )
        axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), xlabel="lower bound, s")
        axis.set_title(machine, fontsize=10)
    axes[0][0].set_ylabel("measured, s")
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", title="what binds", title_fontsize=10)
    return figure


def rates_by_length(rates: Mapping[str, Mapping[int, float]], peak: float, ylabel: str, title: str) -> Figure:
    """Rates against a length, a line for each name, from 0 to above a dashed ``peak``."""
    figure, axis = plt.subplots()
    for name, values in rates.items():
        axis.plot(list(values), list(values.values()), "o-", markersize=4, label=name)
    axis.axhline(peak, color="black", linestyle="--", linewidth=1)
    lengths = sorted({length for values in rates.values() for length in values})
    axis.set(xscale="log", ylim=(0, peak * 1.06), xlabel="length", ylabel=ylabel, title=title)
    axis.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axis.minorticks_off()
    figure.legend(loc="outside right center")
    return figure


def decision_tree(tree: Any, wrong: Mapping[str, str], title: str) -> Figure:
    """Questions from left to right, an answer's name on its line, and at the right what is then recommended.

    Args:
        tree: ``(question, {answer: tree})``, or a string: a recommendation.
        wrong: recommendation -> what is wrong with it; it is drawn in another colour, with these words.
        title: of the figure.
    """
    ends = _ends(tree)
    figure, axis = plt.subplots(figsize=(9.2, 0.5 + 0.55 * ends))
    places = iter(range(ends))
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "linewidth": 1.2}

    def draw(node: Any, column: float) -> float:
        if isinstance(node, str):
            row = float(next(places))
            colour = COLOURS["textbook"] if node in wrong else COLOURS["attention"]
            edge = {**box, "edgecolor": colour}
            axis.text(2.0, row, node, family="DejaVu Sans Mono", fontsize=9, va="center", bbox=edge)
            axis.text(3.35, row, wrong.get(node, ""), fontsize=9, va="center", color=colour)
            return row
        question, answers = node
        rows = {answer: draw(part, column + 1) for answer, part in answers.items()}
        middle = sum(rows.values()) / len(rows)
        for (answer, row), part in zip(rows.items(), answers.values(), strict=True):
            end = 1.97 if isinstance(part, str) else column + 0.95
            bend = column + (0.66 if column else 0.5)
            axis.plot(
                [column + 0.3, bend, bend, end],
                [middle, middle, row, row],
                color=COLOURS["baseline"],
                zorder=0,
            )
            axis.text(bend + 0.03, row - 0.08, answer, fontsize=8.5, va="bottom")
        axis.text(
            column, middle, question, fontsize=9, va="center", bbox={**box, "edgecolor": COLOURS["baseline"]}
        )
        return middle

    draw(tree, 0.0)
    axis.set(xlim=(-0.12, 5.1), ylim=(ends - 0.5, -0.65), title=title)
    axis.set_axis_off()
    return figure


def choices(table: Any, title: str) -> Figure:
    """What each candidate of each case was predicted to take and took; the recommended ones stand in bold.

    Args:
        table: columns ``case``, ``candidate``, ``predicted`` and ``measured`` (seconds, NaN where it did not run),
            ``chosen`` (bool) and ``out`` (bool: it does not fit).
        title: of the figure.
    """
    figure, axis = plt.subplots(figsize=(8.6, 1.1 + 0.34 * len(table)))
    rows, labels, line, last = [], [], 0.0, None
    for entry in table.itertuples():
        line += 1.0 if last == entry.case else 1.5
        labels.append(entry.candidate if last == entry.case else f"{entry.case}:  {entry.candidate}")
        last = entry.case
        colour = COLOURS["textbook"] if entry.out else COLOURS["attention"]
        axis.plot(
            entry.predicted * 1e3, line, "x" if entry.out else "o", color=colour, mfc="white", markersize=7
        )
        axis.plot(entry.measured * 1e3, line, "o", color=colour, markersize=7)
        rows.append(line)
    axis.set_yticks(rows, labels)
    for text, chosen in zip(axis.get_yticklabels(), table["chosen"], strict=True):
        text.set_fontweight("bold" if chosen else "normal")
    for marker, fill, colour, label in (
        ("o", "white", COLOURS["attention"], "predicted"),
        ("o", COLOURS["attention"], COLOURS["attention"], "measured"),
        ("x", "white", COLOURS["textbook"], "does not fit (predicted)"),
    ):
        axis.plot([], [], marker, color=colour, mfc=fill, markersize=7, label=label)
    axis.set(xscale="log", ylim=(line + 0.7, 0.7), xlabel="milliseconds", title=title)
    axis.grid(axis="x", color="#E6E6E6")
    axis.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def accuracy_by_distance(tables: Mapping[str, Any], chance: float, title: str) -> Figure:
    """Accuracy over distance, an axis for each entry, a line for each ``model``: the mean, and the range of the seeds.

    Args:
        tables: title of an axis -> columns ``distance``, ``accuracy``, ``model``, ``seed`` and ``reach``, up to where
            the model can see at all (a thin line; NaN or beyond the last distance: none), and optionally ``live``:
            rows where it is True are dots and take no part in the line.
        chance: dashed.
        title: of the figure.
    """
    figure, axes = plt.subplots(1, len(tables), figsize=(9.4, 3.2), sharey=True, squeeze=False)
    names = list(dict.fromkeys(name for table in tables.values() for name in table["model"]))
    shades = dict(
        zip(names, sns.color_palette(["#0072B2", "#D55E00", "#009E73", "#CC79A7"], len(names)), strict=True)
    )
    for axis, (name, table) in zip(axes[0], tables.items(), strict=True):
        live = table["live"].astype(bool) if "live" in table else table["seed"] != table["seed"]
        for model, rows in table[~live].groupby("model", sort=False):
            seeds = rows.groupby("distance")["accuracy"]
            axis.plot(seeds.mean(), color=shades[model], label=model, linewidth=1.6)
            axis.fill_between(
                seeds.min().index, seeds.min(), seeds.max(), color=shades[model], alpha=0.2, linewidth=0
            )
            reach = rows["reach"].iloc[0]
            if reach < rows["distance"].max():
                axis.axvline(reach, color=shades[model], linewidth=1, linestyle=":")
        for model, rows in table[live].groupby("model", sort=False):
            axis.plot(rows["distance"], rows["accuracy"], "o", color=shades[model], markersize=3, alpha=0.8)
        axis.axhline(chance, color=COLOURS["baseline"], linestyle="--", linewidth=1)
        axis.set_title(name, fontsize=10)
        axis.set(xlabel="distance", ylim=(0, 1.04))
    axes[0][0].set_ylabel("accuracy")
    handles = dict(zip(*reversed(axes[0][0].get_legend_handles_labels()), strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(names))
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def reach_by_depth(fields: Mapping[int, Tensor], reaches: Mapping[int, int], title: str) -> Figure:
    """Gradients ``(n,)`` of the middle place over distance, relative to the largest, a line for each number of layers.

    What is exactly 0 is not drawn. Dotted: the reach that was predicted for each.
    """
    figure, axis = plt.subplots()
    shades = sns.color_palette("cividis", len(fields) + 1)
    for shade, (depth, field) in zip(shades, fields.items(), strict=False):
        relative = (field / field.max()).cpu().numpy()
        offsets = np.arange(len(relative)) - len(relative) // 2
        seen = relative > 0
        axis.plot(offsets[seen], relative[seen], color=shade, label=f"{depth} layer{'s' * (depth > 1)}")
        for side in (-1, 1):
            axis.axvline(side * reaches[depth], color=shade, linestyle=":", linewidth=1)
    axis.set(yscale="log", xlabel="distance from the middle", ylabel="gradient, relative", title=title)
    axis.minorticks_off()
    figure.legend(loc="outside right center")
    return figure


def shares_within(
    ratios: Mapping[str, Mapping[str, Sequence[float]]], bound: float, wanted: float, title: str
) -> Figure:
    """The share of scenarios in which a rule's choice takes at most so many times the best: a step for each rule.

    Args:
        ratios: title of an axis -> rule -> the time of its choice over the best, one for each scenario; infinite
            where its choice does not fit.
        bound: dashed across: the factor that is allowed.
        wanted: dashed along: the share that is asked for.
        title: of the figure.
    """
    figure, axes = plt.subplots(
        1, len(ratios), figsize=(4.2 * len(ratios) + 2.2, 3.3), sharey=True, squeeze=False
    )
    finite = [
        value for rules in ratios.values() for values in rules.values() for value in values if value < np.inf
    ]
    most = max([*finite, 2 * bound]) * 1.1
    for axis, (name, rules) in zip(axes[0], ratios.items(), strict=True):
        for rule, values in rules.items():
            steps = sorted(value for value in values if value < np.inf)
            shares = [(place + 1) / len(values) for place in range(len(steps))]
            axis.step(
                [1.0, *steps, most], [0.0, *shares, shares[-1] if shares else 0.0], where="post", label=rule
            )
        axis.axvline(bound, color=COLOURS["baseline"], linestyle="--", linewidth=1)
        axis.axhline(wanted, color=COLOURS["baseline"], linestyle="--", linewidth=1)
        axis.set(xscale="log", xlim=(0.97, most), ylim=(0, 1.03), xlabel="time of the choice / best")
        ticks = [tick for tick in (1, 1.15, 1.5, 2, 3, 5, 10, 20, 50, 100, 1000) if tick <= most]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_title(name, fontsize=10)
    axes[0][0].set_ylabel("share of scenarios")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def predicted_and_measured_times(tables: Mapping[str, Any], near: float, title: str) -> Figure:
    """Columns ``predicted`` and ``measured`` (seconds), a dot for each row, an axis for each machine; colour: ``kind``.

    On the solid line a prediction is exactly right; between the dashed ones it is off by at most the share ``near``.
    """
    figure, axes = plt.subplots(1, len(tables), figsize=(3.6 * len(tables) + 1.8, 3.6), squeeze=False)
    every = [
        value for table in tables.values() for column in ("predicted", "measured") for value in table[column]
    ]
    low, high = min(every) / 2, max(every) * 2
    kinds = list(dict.fromkeys(kind for table in tables.values() for kind in table["kind"]))
    shades = dict(zip(kinds, sns.color_palette(["#0072B2", "#D55E00", "#009E73"], len(kinds)), strict=True))
    for axis, (machine, table) in zip(axes[0], tables.items(), strict=True):
        axis.plot([low, high], [low, high], color="black", linewidth=1)
        for factor in (1 + near, 1 / (1 + near)):
            axis.plot(
                [low, high], [factor * low, factor * high], color="#7A7A7A", linestyle="--", linewidth=1
            )
        for kind, rows in table.groupby("kind", sort=False):
            axis.plot(
                rows["predicted"],
                rows["measured"],
                "o",
                color=shades[kind],
                markersize=4,
                alpha=0.6,
                label=kind,
            )
        axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), xlabel="predicted, s")
        axis.set_title(machine, fontsize=10)
    axes[0][0].set_ylabel("measured, s")
    handles = dict(zip(*reversed(axes[0][0].get_legend_handles_labels()), strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside right center")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def strip_and_bars(image: Tensor, values: Sequence[float], chance: float, ylabel: str, title: str) -> Figure:
    """A strip of places ``(H, W)`` with a line between its places, and below each a bar from 0 to 1; dashed: chance."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.0, 3.2), height_ratios=[1, 1.6])
    _strip(top, image, len(values))
    top.set_title(title)
    bars = bottom.bar(range(len(values)), values, width=0.6, color=COLOURS["plain CNN"])
    bottom.bar_label(bars, [f"{value:.2f}" for value in values], fontsize=9, padding=2)
    bottom.axhline(chance, color="black", linestyle="--", linewidth=1)
    bottom.set(xlim=(-0.5, len(values) - 0.5), ylim=(0, 1.1), ylabel=ylabel, xlabel="place")
    return figure


def image_to_tokens(image: Tensor, feature_map: Tensor, cells: Tensor, tokens: Tensor, title: str) -> Figure:
    """From a strip to tokens, from top to bottom; maps as the size of their vectors.

    Args:
        image: ``(H, W)``.
        feature_map: ``(C, H', W')``.
        cells: ``(C, rows, columns)``.
        tokens: ``(rows · columns, C)``.
        title: of the figure.
    """
    figure, axes = plt.subplots(4, 1, figsize=(7.0, 4.6), height_ratios=[1, 1, 0.6, 2.4])
    parts = {
        "image": image,
        "feature map": feature_map.norm(dim=0),
        "cells": cells.norm(dim=0),
        "tokens": tokens.T,
    }
    shapes = (image.shape, feature_map.shape, cells.shape, tokens.shape)
    for axis, (name, values), shape in zip(axes, parts.items(), shapes, strict=True):
        colours = {"cmap": "gray"} if name == "image" else {"cmap": MAP_COLOURS}
        axis.imshow(values.detach().cpu().numpy(), aspect="auto", interpolation="nearest", **colours)
        axis.set(xticks=[], yticks=[])
        size = " × ".join(str(number) for number in shape)
        axis.set_ylabel(f"{name}\n{size}", rotation=0, ha="right", va="center", fontsize=9)
        for border in range(1, len(tokens)):
            axis.axvline(border * values.shape[1] / len(tokens) - 0.5, color="#D55E00", linewidth=1)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def attention_over_image(
    image: Tensor, overlays: Mapping[str, Tensor], marks: Sequence[int], title: str
) -> Figure:
    """A strip once for each overlay ``(H, W)``, bright where the weight is; a frame marks the place that asks.

    Args:
        image: ``(H, W)``.
        overlays: title -> weights laid over the pixels, from 0 to 1.
        marks: for each overlay the number of the place that asks; places are as wide as the image is high.
        title: of the figure.
    """
    height = image.shape[0]
    figure, axes = plt.subplots(len(overlays), 1, figsize=(7.0, 0.95 * len(overlays) + 0.6), squeeze=False)
    drawn: Any = None
    for axis, (name, weights), mark in zip(axes[:, 0], overlays.items(), marks, strict=True):
        axis.imshow(image.cpu().numpy(), cmap="gray")
        drawn = axis.imshow(weights.detach().cpu().numpy(), cmap=MAP_COLOURS, vmin=0, vmax=1, alpha=0.6)
        frame = plt.Rectangle(
            (mark * height - 0.5, -0.5), height, height, fill=False, color="#D55E00", linewidth=2.5
        )
        axis.add_patch(frame)
        frame.set_clip_on(False)
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.colorbar(drawn, ax=axes[:, 0].tolist(), label="weight", shrink=0.9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def accuracy_by_images(tables: Mapping[str, Any], chance: float, title: str) -> Figure:
    """Accuracy over the number of training images, an axis for each entry, a line for each ``network``: mean and range.

    Args:
        tables: title of an axis -> columns ``images``, ``accuracy``, ``network`` and ``seed``.
        chance: dashed.
        title: of the figure.
    """
    figure, axes = plt.subplots(1, len(tables), figsize=(9.0, 3.6), sharey=True, squeeze=False)
    for axis, (name, table) in zip(axes[0], tables.items(), strict=True):
        for network, rows in table.groupby("network", sort=False):
            seeds = rows.groupby("images")["accuracy"]
            mean = seeds.mean()
            spread = [mean - seeds.min(), seeds.max() - mean]
            axis.errorbar(
                mean.index, mean, spread, color=COLOURS[network], marker="o", capsize=3, label=network
            )
        counts = sorted(table["images"].unique())
        axis.set(xscale="log", xlabel="training images", ylim=(0, 1.03))
        axis.set_xticks(counts, [f"{count:,}" for count in counts])
        axis.minorticks_off()
        axis.axhline(chance, color="black", linestyle="--", linewidth=1)
        axis.set_title(name, fontsize=10)
    axes[0][0].set_ylabel("accuracy")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def price_and_gain(tables: Mapping[str, Any], title: str) -> Figure:
    """Accuracy over price, an axis for each entry, a dot for each network: the mean, and the range of the seeds.

    Args:
        tables: title of an axis -> columns ``network``, ``price`` (million FLOPs), ``mean``, ``least`` and ``most``.
        title: of the figure.
    """
    figure, axes = plt.subplots(1, len(tables), figsize=(9.2, 3.7), sharey=True, squeeze=False)
    for axis, (name, table) in zip(axes[0], tables.items(), strict=True):
        for row in table.itertuples():
            spread = [[row.mean - row.least], [row.most - row.mean]]
            style = {
                "color": COLOURS[row.network],
                "marker": "o",
                "markersize": 7,
                "capsize": 3,
                "linestyle": "none",
            }
            axis.errorbar(row.price, row.mean, spread, label=row.network, **style)
        axis.set(xscale="log", xlabel="million FLOPs for an image", ylim=(0, 1.04))
        ticks = [
            tick
            for tick in (1, 2, 5, 10, 20, 50)
            if 0.5 * table["price"].min() < tick < 2 * table["price"].max()
        ]
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set_title(name, fontsize=10)
    axes[0][0].set_ylabel("accuracy")
    known = {
        label: handle
        for axis in axes[0]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(known.values()), list(known), loc="outside lower center", ncols=4)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _strip(axis: Axes, image: Tensor, places: int) -> None:
    """A strip in grey, with lines between its places."""
    axis.imshow(image.cpu().numpy(), cmap="gray", aspect="auto")
    for border in range(1, places):
        axis.axvline(border * image.shape[1] / places - 0.5, color="#D55E00", linewidth=1)
    axis.set(xticks=[], yticks=[])


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


def _ends(tree: Any) -> int:
    """How many recommendations a tree of `decision_tree` has."""
    return 1 if isinstance(tree, str) else sum(map(_ends, tree[1].values()))


def _short(value: float) -> str:
    """12,345,678 -> 12M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"
