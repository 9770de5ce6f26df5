"""Chapter 6, what must not stand beside a submission: solutions, hints and known wrong answers."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from .chapter6 import KNOWN_GROWTH, growth_words
from .judge import Answer, Mistake

Tensor = torch.Tensor
Candidates = dict[str, tuple[float, int]]

# ------------------------------------------------------------------------------------------ window-mask


def sliding_window_mask(n, window):
    positions = torch.arange(n)
    distance = (positions[:, None] - positions).abs()  # (query, key)
    return distance <= window


def _steps(n: int) -> Tensor:
    """`key - query`."""
    return torch.arange(n) - torch.arange(n)[:, None]


def _band(keep: Callable[[Tensor, int], Tensor]) -> Callable[[int, int], Tensor]:
    """What becomes of the distances from query to key, below 0 where the key comes first."""
    return lambda n, window: keep(_steps(n), window)


def _turned_over(n: int, window: int) -> Tensor:
    return sliding_window_mask(n, window).flip(-1)


def _blocks(n: int, size: int) -> Tensor:
    """True where query and key are in one block."""
    block = torch.arange(n).div(max(1, size), rounding_mode="floor")
    return block[:, None] == block


def _wrapped(steps: Tensor, window: int) -> Tensor:
    around = steps.remainder(len(steps))
    return torch.minimum(around, len(steps) - around) <= window


def _pushed_inwards(n: int, window: int) -> Tensor:
    """All windows of one size: at both ends they are pushed into the sequence."""
    first = (torch.arange(n) - window).clamp(0, max(0, n - 2 * window - 1))[:, None]
    keys = torch.arange(n)
    return (keys >= first) & (keys <= first + 2 * window)


_EACH_SIDE = "With a window of 2, a token in the middle sees five keys: two before, itself, two after."

_WINDOW_MASK = Answer(
    id="window-mask",
    solution=sliding_window_mask,
    why="A column of positions minus a row of them is the table of all distances, query by key, and the window is what "
    "is asked of each. `torch.ones(n, n).triu(-window).tril(window)` cuts the same band out of a square.",
    hints=(
        "Draw it for five tokens and a window of 1. Which keys does the first query see, which the third?",
        "The mask asks one question of each pair: how far apart are they? A column of positions and a row of them, "
        "subtracted, broadcast to all pairs.",
        "`positions = torch.arange(n)`; `positions[:, None]` is the column. Far to the left is as far as far to the "
        "right: which function forgets the sign?",
        "You have the table of distances, `(n, n)`. Compare it with `window`, and mind the end: a key at exactly that "
        "distance is seen.",
    ),
    mistakes=(
        Mistake("one-too-narrow", "A key at exactly `window` places is left out, so every query sees one key too few "
                f"on each side. {_EACH_SIDE}", _band(lambda s, w: s.abs() < w)),
        Mistake("one-too-wide", f"Every query sees one key too many on each side. {_EACH_SIDE}",
                _band(lambda s, w: s.abs() <= w + 1)),
        Mistake("one-side-narrow", "One side reaches one place less far than the other. Where does a `range` end? "
                f"{_EACH_SIDE}", _band(lambda s, w: (s >= -w) & (s < w)), _band(lambda s, w: (s > -w) & (s <= w))),
        Mistake("one-side-wide", "One side reaches one place farther than the other. `triu` and `tril` keep the "
                f"diagonal that they are given. {_EACH_SIDE}", _band(lambda s, w: (s >= -w) & (s <= w + 1)),
                _band(lambda s, w: (s >= -w - 1) & (s <= w))),
        Mistake("past-only", "Keys after the query are left out: the window is half of one. Nothing is to be predicted "
                f"here. {_EACH_SIDE}", _band(lambda s, w: (s <= 0) & (s >= -w))),
        Mistake("future-only", f"Keys before the query are left out: the window is half of one. {_EACH_SIDE}",
                _band(lambda s, w: (s >= 0) & (s <= w))),
        Mistake("past-without-end", "The past has no end: the farthest key to the left is seen from everywhere. The "
                "window has two sides; which distances are below 0?", _band(lambda s, w: s <= w)),
        Mistake("future-without-end", "The future has no end: the last key is seen from everywhere. The window has two "
                "sides; which distances are below 0?", _band(lambda s, w: s >= -w)),
        Mistake("whole-width", "`window` was taken for the width of all that is seen. It is the reach on *each* side. "
                f"{_EACH_SIDE}", _band(lambda s, w: s.abs() <= w // 2), _band(lambda s, w: 2 * s.abs() < w),
                _band(lambda s, w: (s >= -(w // 2)) & (s < w - w // 2))),
        Mistake("twice-as-wide", f"The window reaches twice as far on each side. {_EACH_SIDE}",
                _band(lambda s, w: s.abs() <= 2 * w), _band(lambda s, w: s.abs() <= 2 * w + 1)),
        Mistake("inverted", "True and False are exchanged: this marks what is *forbidden*. What does True mean in this "
                "course?", _band(lambda s, w: s.abs() > w)),
        Mistake("edge-only", "Only the two keys at exactly `window` places are seen, and none between.",
                _band(lambda s, w: s.abs() == w)),
        Mistake("without-itself", "A token does not see itself. It is 0 places away.",
                _band(lambda s, w: (s.abs() <= w) & (s != 0))),
        Mistake("itself-only", "Every token sees itself alone.", _band(lambda s, w: s == 0)),
        Mistake("dilated", "There are gaps in the window: every second key near the query is left out.",
                _band(lambda s, w: (s.abs() <= w) & (s % 2 == 0)),
                _band(lambda s, w: (s.abs() <= 2 * w) & (s % 2 == 0))),
        Mistake("strided", "What is seen are keys every `window` places, near or far. Wanted are those near the query.",
                _band(lambda s, w: s % max(1, w) == 0), _band(lambda s, w: s % (w + 1) == 0)),
        Mistake("blocks", "The sequence was cut into blocks, and each query sees its own. At a block's edge a query "
                "then misses its neighbour. The window goes along with the query.",
                lambda n, w: _blocks(n, w), lambda n, w: _blocks(n, w + 1), lambda n, w: _blocks(n, 2 * w + 1)),
        Mistake("wraps-around", "The window goes on at the other end of the sequence: the first token sees the last. "
                "At the ends there are fewer keys.", _band(_wrapped)),
        Mistake("pushed-inwards", "At both ends the window was pushed inwards, so that it has as many keys as in the "
                "middle. Those are farther away than `window`.", _pushed_inwards),
        Mistake("turned-over", "The band runs along the other diagonal: the first query sees the last keys.",
                _turned_over),
        Mistake("everything-allowed", "Everything is allowed, however far away.", _band(lambda s, w: s == s)),
        Mistake("distances", "These are the distances themselves. The mask says of each whether it is small enough.",
                _band(lambda s, w: s.abs())),
        Mistake("not-bool", "The ones and zeros are in the right places, but the mask is not bool.",
                _band(lambda s, w: (s.abs() <= w).float()), _band(lambda s, w: (s.abs() <= w).long()),
                _band(lambda s, w: (s.abs() <= w).int()), _band(lambda s, w: (s.abs() <= w).byte())),
        Mistake("additive", "This is a mask to be *added* to the scores (0 and −∞); wanted is one that says True or "
                "False.", _band(lambda s, w: torch.zeros(s.shape).masked_fill(s.abs() > w, -math.inf)),
                _band(lambda s, w: torch.zeros(s.shape).masked_fill(s.abs() > w, -1e9))),
        Mistake("batch-dimensions", "The band is right, but it has leading dimensions that nobody asked for: they come "
                "by broadcasting.", lambda n, w: sliding_window_mask(n, w)[None],
                lambda n, w: sliding_window_mask(n, w)[None, None]),
        Mistake("keys-alone", "That is what one query sees, or a list of keys. Wanted is a row for each query.",
                lambda n, w: torch.arange(n) <= w, lambda n, w: torch.arange(-w, w + 1),
                lambda n, w: torch.ones(n, 2 * w + 1).bool()),
    ),
)  # fmt: skip

# ------------------------------------------------------------------------------------- window-attention


def sliding_window_attention(q, k, v, window):
    n, d = q.shape[-2:]
    positions = torch.arange(n, device=q.device)
    block = 2 * window + 1  # queries that share their keys
    outputs = []
    for start in range(0, n, block):
        rows = slice(start, start + block)
        reach = slice(max(0, start - window), start + block + window)  # a slice ends where the sequence does
        scores = q[..., rows, :] @ k[..., reach, :].mT / math.sqrt(d)
        far = (positions[rows, None] - positions[reach]).abs() > window
        weights = scores.masked_fill(far, -torch.inf).softmax(dim=-1)
        outputs.append(weights @ v[..., reach, :])
    return torch.cat(outputs, dim=-2)


def _both_sides(window: int) -> Iterable[int]:
    return range(-window, window + 1)


def _root(q: Tensor, window: int) -> float:
    return q.shape[-1] ** -0.5


def _cut(where: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Which place each wished one is read from, and whether its score counts: not beyond an end."""
    return where.clamp(0, n - 1), (where >= 0) & (where < n)


def _softmax(scores: Tensor, counts: Tensor) -> Tensor:
    return scores.masked_fill(~counts, -math.inf).softmax(-1)


def _zeros_beyond(scores: Tensor, counts: Tensor) -> Tensor:
    """Keys of zeros stand beyond both ends, and values of zeros."""
    return scores.masked_fill(~counts, 0.0).softmax(-1) * counts


def _near(
    offsets: Callable[[int], Iterable[int]] = _both_sides,
    place: Callable[[Tensor, int], tuple[Tensor, Tensor]] = _cut,
    scale: Callable[[Tensor, int], float] = _root,
    normalise: Callable[[Tensor, Tensor], Tensor] = _softmax,
    read: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda q, k, v: v,  # what is summed
    exchange: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] = lambda q, k, v: (q, k, v),
    result: Callable[[Tensor, Tensor], Any] = lambda output, weights: output,
) -> Callable[..., Any]:
    """Sliding-window attention with one thing wrong: each query has a row of keys, at these distances."""

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Any:
        q, k, v = exchange(q, k, v)
        n, steps = q.shape[-2], torch.tensor(list(offsets(window)), dtype=torch.long)
        where, counts = place(torch.arange(n)[:, None] + steps, n)
        scores = (q[..., None, :] * k[..., where, :]).sum(-1) * scale(q, window)
        weights = normalise(scores, counts)
        output = (weights[..., None] * read(q, k, v)[..., where, :]).sum(-2)
        return result(output, weights)

    return attend


def _pushed(where: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Windows of one size, pushed into the sequence at both ends."""
    shift = (-where[:, :1]).clamp_min(0) - (where[:, -1:] - n + 1).clamp_min(0)
    return _cut(where + shift, n)


def _reflected(where: Tensor, n: int) -> tuple[Tensor, Tensor]:
    around = where.abs() % max(1, 2 * n - 2)
    return torch.minimum(around, (2 * n - 2 - around).clamp_min(0)), where == where


def _repeated(where: Tensor, n: int) -> tuple[Tensor, Tensor]:
    return where.clamp(0, n - 1), where == where


def _round_the_corner(where: Tensor, n: int) -> tuple[Tensor, Tensor]:
    return where % n, where == where


def _in_blocks(size: Callable[[int], int], before: int = 0, after: int = 0) -> Callable[..., Tensor]:
    """Blocks of queries that see all keys of their own block, and of so many before and after it."""

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        n, block, outputs = q.shape[-2], max(1, size(window)), []
        for start in range(0, n, block):
            reach = slice(max(0, start - before * block), start + (1 + after) * block)
            scores = q[..., start : start + block, :] @ k[..., reach, :].mT * q.shape[-1] ** -0.5
            outputs.append(scores.softmax(-1) @ v[..., reach, :])
        return torch.cat(outputs, -2)

    return attend


def _reach_unmasked(size: Callable[[int], int], ahead: bool = True) -> Callable[..., Tensor]:
    """The block's keys and the window on its sides, and every query of the block sees all of them."""

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        n, block, outputs = q.shape[-2], max(1, size(window)), []
        for start in range(0, n, block):
            reach = slice(max(0, start - window), start + block + (window if ahead else 0))
            scores = q[..., start : start + block, :] @ k[..., reach, :].mT * q.shape[-1] ** -0.5
            outputs.append(scores.softmax(-1) @ v[..., reach, :])
        return torch.cat(outputs, -2)

    return attend


def _masked_inside(
    size: Callable[[int], int], before: bool, after: bool, last: bool = True
) -> Callable[..., Tensor]:
    """Blocks with the right mask, whose keys end with the block on one side or on both.

    ``last`` False: a block that is not full is left at 0.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        n, block = q.shape[-2], max(1, size(window))
        places, outputs = torch.arange(n), []
        for start in range(0, n, block):
            rows = slice(start, start + block)
            reach = slice(max(0, start - window * before), start + block + window * after)
            far = (places[rows, None] - places[reach]).abs() > window
            scores = q[..., rows, :] @ k[..., reach, :].mT * q.shape[-1] ** -0.5
            part = scores.masked_fill(far, -math.inf).softmax(-1) @ v[..., reach, :]
            outputs.append(part if last or part.shape[-2] == block else torch.zeros_like(part))
        return torch.cat(outputs, -2)

    return attend


def _row_by_row(first: Callable[[int, int], int], end: Callable[[int, int], int]) -> Callable[..., Tensor]:
    """Query by query, with a slice of the keys."""

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        rows = []
        for i in range(q.shape[-2]):
            near = slice(first(i, window), end(i, window))
            scores = q[..., i : i + 1, :] @ k[..., near, :].mT * q.shape[-1] ** -0.5
            rows.append(scores.softmax(-1) @ v[..., near, :])
        return torch.cat(rows, -2)

    return attend


def _under_a_mask(
    weigh: Callable[[Tensor, Tensor], Tensor] = lambda s, near: s.masked_fill(~near, -math.inf).softmax(-1),
) -> Callable[..., Tensor]:
    """The whole map, and a mask over it."""

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        near = sliding_window_mask(q.shape[-2], window)
        return weigh(q @ k.mT * q.shape[-1] ** -0.5, near) @ v

    return attend


def _all_keys_for_each_block(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    n, outputs = q.shape[-2], []
    for start in range(0, n, 16):
        rows = slice(start, start + 16)
        far = (torch.arange(n)[rows, None] - torch.arange(n)).abs() > window
        scores = q[..., rows, :] @ k.mT * q.shape[-1] ** -0.5
        outputs.append(scores.masked_fill(far, -math.inf).softmax(-1) @ v)
    return torch.cat(outputs, -2)


def _whole_mask(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Right but for the mask, which is made for all pairs and cut into pieces."""
    near = sliding_window_mask(q.shape[-2], window)
    outputs = []
    for start in range(0, q.shape[-2], 16):
        rows, reach = slice(start, start + 16), slice(max(0, start - window), start + 16 + window)
        scores = q[..., rows, :] @ k[..., reach, :].mT * q.shape[-1] ** -0.5
        outputs.append(scores.masked_fill(~near[rows, reach], -math.inf).softmax(-1) @ v[..., reach, :])
    return torch.cat(outputs, -2)


def _the_map(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    return _under_a_mask()(q, k, torch.eye(q.shape[-2]), window)


def _with_the_map(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    weights = _the_map(q, k, v, window)
    return weights @ v, weights


_WINDOW = lambda w: w  # noqa: E731
_ALL = lambda w: 2 * w + 1  # noqa: E731
_SOFTMAX_OF_A_MAP_OVER_QUERIES = _under_a_mask(lambda s, near: s.masked_fill(~near, -math.inf).softmax(-2))
_NEVER = "What must a score be, so that its weight is 0 after the softmax, and the others add up to 1?"
_FEWER = "At both ends a query has fewer keys than in the middle."

_WINDOW_ATTENTION = Answer(
    id="window-attention",
    solution=sliding_window_attention,
    why="Queries that stand side by side share most of their keys, so they are taken in blocks: `b` queries reach "
    "`b + 2 · window` keys, and the mask inside the block takes out what is in reach of the block but not of the "
    "query. For n queries that is n · (b + 2 · window) scores, whatever n is. Any block is right; with blocks of one "
    "query no score is computed in vain, but products of such small matrices are slow. No row is ever empty: a query "
    "always sees itself.",
    hints=(
        "Begin with one query at place `i`. Which slice of the keys does it see? Mind the beginning: a slice that "
        "starts below 0 counts from the end. At the end a slice simply stops.",
        "With that you can write a loop over queries: it is right, and it grows with `n · window`. It passes.",
        "Faster: take the queries from `start` to `start + block` together. Which keys does any of them see? All in "
        "one matrix product; but now some of those keys are too far for some of the queries.",
        "In a block you need the places of its queries and of its keys: their distances are a small table, and where "
        "it is larger than `window` the score becomes −∞ (`masked_fill`) *before* the softmax. At the end, "
        "`torch.cat(outputs, dim=-2)`.",
    ),
    mistakes=(
        Mistake("full-map", "The output is right, but it was cut out of the full map: all `n × n` pairs were held at "
                "one time, and most of them thrown away. Twice the length, four times the memory and the work. Which "
                "keys does a query need at all?", _under_a_mask()),
        Mistake("all-keys-met", "The output is right, and memory grows with `n`, but every query still meets all keys, "
                "and most scores are thrown away: twice the length, four times the work. Which keys do these queries "
                "need at all?", _all_keys_for_each_block),
        Mistake("whole-mask", "The output is right, and scores are computed only where they are needed, but the mask "
                "was made for all `n × n` pairs: its memory grows with `n²`. The mask of a block is small. What does "
                "it depend on?", _whole_mask),
        Mistake("no-window", "That is attention to all keys: `window` has no effect.",
                _under_a_mask(lambda s, near: s.softmax(-1))),
        Mistake("one-too-narrow", "The keys at exactly `window` places are left out on both sides.",
                _near(lambda w: range(-w + 1, w)), _near(lambda w: range(-w + 1, w) if w else [0])),
        Mistake("last-key-missing", "The farthest key after the query is left out. A slice, and a range, ends *before* "
                "its second number.", _near(lambda w: range(-w, w)),
                _row_by_row(lambda i, w: max(0, i - w), lambda i, w: i + w)),
        Mistake("first-key-missing", "The farthest key before the query is left out: where does its window begin?",
                _near(lambda w: range(-w + 1, w + 1)), _near(lambda w: range(-w + 1, w + 1) if w else [0])),
        Mistake("one-too-wide", "Every query sees one key too many on each side.",
                _near(lambda w: range(-w - 1, w + 2))),
        Mistake("one-key-more-after", "Every query sees one key too many after it.",
                _near(lambda w: range(-w, w + 2))),
        Mistake("one-key-more-before", "Every query sees one key too many before it.",
                _near(lambda w: range(-w - 1, w + 1))),
        Mistake("past-only", "Keys after the query are left out: the window is half of one. It reaches to both sides.",
                _near(lambda w: range(-w, 1))),
        Mistake("future-only", "Keys before the query are left out: the window is half of one. It reaches to both "
                "sides.", _near(lambda w: range(0, w + 1))),
        Mistake("whole-width", "`window` was taken for the width of all that is seen. It is the reach on *each* side.",
                _near(lambda w: range(-(w // 2), w // 2 + 1)), _near(lambda w: range(-(w // 2), w - w // 2))),
        Mistake("twice-as-wide", "The window reaches twice as far on each side.",
                _near(lambda w: range(-2 * w, 2 * w + 1))),
        Mistake("dilated", "There are gaps in the window: keys between those that are seen are left out.",
                _near(lambda w: range(-2 * w, 2 * w + 1, 2)),
                _near(lambda w: [i for i in range(-w, w + 1) if i % 2 == 0])),
        Mistake("without-itself", "The key at the query's own place is left out.",
                _near(lambda w: [i for i in range(-w, w + 1) if i])),
        Mistake("itself-only", "Every query sees the key at its own place alone, so the output is `v`.",
                _near(lambda w: [0])),
        Mistake("shifted", "The window stands beside its query: it is shifted by one place, or by all of its reach.",
                _near(lambda w: range(-w + 1, w + 2)), _near(lambda w: range(-w - 1, w)),
                _near(lambda w: range(0, 2 * w + 1)), _near(lambda w: range(-2 * w, 1))),
        Mistake("start-below-zero", "The first queries get nothing, or the wrong keys: their slice begins below 0, and "
                "Python counts such a start from the *end*.",
                _row_by_row(lambda i, w: i - w, lambda i, w: i + w + 1)),
        Mistake("padding-counts", "Beyond both ends stand keys of zeros, and they count: a score of 0 is not a weight "
                f"of 0. {_FEWER} {_NEVER}", _near(normalise=_zeros_beyond)),
        Mistake("ends-repeated", "At the ends, the first and the last key are met several times, once for each place "
                f"that does not exist. {_FEWER}", _near(place=_repeated)),
        Mistake("ends-reflected", "At the ends, keys are met twice, as in a mirror, once for each place that does not "
                f"exist. {_FEWER}", _near(place=_reflected)),
        Mistake("wraps-around", "The window goes on at the other end of the sequence: the first query meets the last "
                f"keys. (`roll` does that, and so do negative indices.) {_FEWER}", _near(place=_round_the_corner)),
        Mistake("pushed-inwards", "At the ends the window was pushed inwards, so that it has as many keys as in the "
                "middle. Some of them are farther away than `window`.", _near(place=_pushed)),
        Mistake("own-block-only", "The sequence was cut into blocks, and each query sees the keys of its own. At a "
                "block's edge it then misses its neighbour. The window goes along with the query.",
                _in_blocks(_WINDOW), _in_blocks(lambda w: w + 1), _in_blocks(_ALL), _in_blocks(lambda w: 2 * w),
                _masked_inside(_WINDOW, False, False), _masked_inside(_ALL, False, False),
                _masked_inside(lambda w: 2 * w, False, False), _masked_inside(lambda w: 16, False, False),
                _masked_inside(lambda w: 32, False, False), _masked_inside(lambda w: 64, False, False)),
        Mistake("neighbouring-blocks-whole", "Every query sees all keys of the blocks beside its own. Some of those "
                "are farther away than `window`: inside a block a mask is needed.",
                _in_blocks(_WINDOW, 1, 1), _in_blocks(lambda w: w + 1, 1, 1), _in_blocks(_WINDOW, 1, 0),
                _in_blocks(_ALL, 1, 1)),
        Mistake("block-without-mask", "All queries of a block see all keys that the block reaches. Each query has a "
                "window of its own: inside a block a mask is needed.",
                _reach_unmasked(_WINDOW), _reach_unmasked(_ALL), _reach_unmasked(lambda w: w + 1),
                _reach_unmasked(lambda w: 2 * w), _reach_unmasked(lambda w: 16), _reach_unmasked(lambda w: 32),
                _reach_unmasked(lambda w: 64), _reach_unmasked(_WINDOW, False)),
        Mistake("block-ends-too-early", "The keys of a block end where its queries do. The last queries of the block "
                "reach farther.", *(_masked_inside(size, True, False) for size in
                                    (_WINDOW, _ALL, lambda w: 2 * w, lambda w: 16, lambda w: 32, lambda w: 64))),
        Mistake("block-begins-too-late", "The keys of a block begin where its queries do. The first queries of the "
                "block reach farther back.", *(_masked_inside(size, False, True) for size in
                                               (_WINDOW, _ALL, lambda w: 2 * w, lambda w: 16, lambda w: 32,
                                                lambda w: 64))),
        Mistake("last-block-dropped", "The queries that do not fill a block get no output. How many blocks do 13 "
                "queries make, 3 at a time?", *(_masked_inside(size, True, True, False) for size in
                                                 (_WINDOW, _ALL, lambda w: 2 * w, lambda w: 16, lambda w: 32,
                                                  lambda w: 64))),
        Mistake("masked-to-zero", f"Scores that are not allowed became 0, and then went through the softmax. {_NEVER}",
                _under_a_mask(lambda s, near: (s * near).softmax(-1)),
                _under_a_mask(lambda s, near: (s + near.log().nan_to_num(neginf=-1.0)).softmax(-1))),
        Mistake("masked-after-softmax", "The mask came after the softmax: what is far away has had its share already, "
                f"and the weights that are left do not add up to 1. {_NEVER}",
                _under_a_mask(lambda s, near: s.softmax(-1) * near)),
        Mistake("inverted", "The mask is the wrong way round: what is near was left out.",
                _under_a_mask(lambda s, near: s.masked_fill(near, -math.inf).softmax(-1)),
                _under_a_mask(lambda s, near: s.masked_fill(near, -1e9).softmax(-1))),
        Mistake("no-scale", "The scores are not divided by `√d`.", _near(scale=lambda q, w: 1.0)),
        Mistake("scale-without-root", "The scores are divided by `d`, not by its root, or twice by the root.",
                _near(scale=lambda q, w: 1 / q.shape[-1])),
        Mistake("scale-multiplied", "The scores are multiplied by `√d`; they should be divided by it.",
                _near(scale=lambda q, w: q.shape[-1] ** 0.5)),
        Mistake("scale-of-another-size", "The scores are divided by the root of another size. Which one is the length "
                "of the vectors that the dot product sums over?",
                _near(scale=lambda q, w: (2 * w + 1) ** -0.5), _near(scale=lambda q, w: q.shape[-2] ** -0.5),
                _near(scale=lambda q, w: q.shape[0] ** -0.5), _near(scale=lambda q, w: (w or 1) ** -0.5)),
        Mistake("not-divided", "The weights are exponentials that were not divided by their sum.",
                _near(normalise=lambda s, near: s.exp() * near)),
        Mistake("sigmoid", "The weights come from a sigmoid: each by itself. A softmax lets them share 1.",
                _near(normalise=lambda s, near: s.sigmoid() * near)),
        Mistake("no-softmax", "The scores were taken for weights: the softmax is missing.",
                _near(normalise=lambda s, near: s * near)),
        Mistake("softmax-over-queries", "The softmax runs over the queries. Each *query* shares 1 among its keys.",
                _near(normalise=lambda s, near: s.masked_fill(~near, -math.inf).softmax(-2).nan_to_num()),
                _SOFTMAX_OF_A_MAP_OVER_QUERIES),
        Mistake("mean-of-the-window", "That is the mean of the values near each query: the scores have no part in it.",
                _near(normalise=lambda s, near: near / near.sum(-1, keepdim=True) + 0 * s)),
        Mistake("largest-alone", "Only the key with the largest score is taken. Wanted is a softmax.",
                _near(normalise=lambda s, near: torch.nn.functional.one_hot(
                    s.masked_fill(~near, -math.inf).argmax(-1), near.shape[-1]).to(s.dtype))),
        Mistake("sums-the-keys", "The weights were applied to the keys, not to the values.",
                _near(read=lambda q, k, v: k)),
        Mistake("sums-the-queries", "The weights were applied to the queries, not to the values.",
                _near(read=lambda q, k, v: q)),
        Mistake("queries-and-keys-exchanged", "Queries and keys have changed places: the softmax of a *query* runs "
                "over keys.", _near(exchange=lambda q, k, v: (k, q, v))),
        Mistake("keys-and-values-exchanged", "Keys and values have changed places.",
                _near(exchange=lambda q, k, v: (q, v, k))),
        Mistake("returns-more", "More than the output came back. Wanted is the output alone.",
                _near(result=lambda output, weights: (output, weights)),
                _near(result=lambda output, weights: [output, weights]),
                _near(result=lambda output, weights: (output, None)), _with_the_map),
        Mistake("returns-the-weights", "The weights came back. Wanted is what they make of the values.",
                _near(result=lambda output, weights: weights), _the_map),
        Mistake("low-precision", "The result is near, but too coarse: was it computed in bfloat16 or float16?",
                lambda q, k, v, w: sliding_window_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), w).float(),
                lambda q, k, v, w: sliding_window_attention(q.half(), k.half(), v.half(), w).float()),
    ),
)  # fmt: skip

_SQUARE = {  # memory, and work; those that are not here grow with the length
    "full-map": (True, True), "no-window": (True, True), "masked-to-zero": (True, True),
    "masked-after-softmax": (True, True), "inverted": (True, True), "all-keys-met": (False, True),
    "whole-mask": (True, False),
}  # fmt: skip
for _mistake in _WINDOW_ATTENTION.mistakes:
    for _candidate in _mistake.candidates:
        KNOWN_GROWTH[_candidate] = growth_words(*_SQUARE.get(_mistake.id, (False, False)))
for _candidate in (_the_map, _with_the_map, _SOFTMAX_OF_A_MAP_OVER_QUERIES):
    KNOWN_GROWTH[_candidate] = growth_words(True, True)

# ------------------------------------------------------------------------------------- select-mechanism


def select_mechanism(candidates, memory_budget):
    fitting = {name: pair for name, pair in candidates.items() if pair[1] <= memory_budget}
    if not fitting:
        smallest = min(size for _, size in candidates.values())
        raise ValueError(f"nothing fits into {memory_budget} bytes: the smallest takes {smallest}")
    return min(fitting, key=lambda name: fitting[name])  # pairs compare by seconds, then by bytes


def _fits(seconds: float, size: int, budget: int) -> bool:
    return size <= budget


def _time_then_size(name: str, seconds: float, size: int) -> Any:
    return seconds, size


def _refuse(candidates: Candidates, budget: int) -> Any:
    """As the right answer does, to the word: an error is compared by its beginning."""
    raise ValueError(f"nothing fits into {budget} bytes: the smallest is larger")


def _select(
    fits: Callable[[float, int, int], bool] = _fits,
    order: Callable[[str, float, int], Any] = _time_then_size,  # the smallest is taken, of equals the first
    nothing: Callable[[Candidates, int], Any] = _refuse,
    result: Callable[[str, Candidates, list[str]], Any] = lambda name, candidates, ranked: name,
    last: bool = False,  # of equals the last
) -> Callable[[Candidates, int], Any]:
    """A selection with one thing wrong."""

    def select(candidates: Candidates, memory_budget: int) -> Any:
        names = [name for name, pair in candidates.items() if fits(*pair, memory_budget)]
        if not names:
            return nothing(candidates, memory_budget)
        ranked = sorted(reversed(names) if last else names, key=lambda name: order(name, *candidates[name]))
        return result(ranked[0], candidates, ranked)

    return select


def _by_time(name: str, seconds: float, size: int) -> float:
    return seconds


def _together(candidates: Candidates, memory_budget: int) -> str:
    """The budget is used up: all candidates have to fit side by side."""
    left, names = memory_budget, []
    for name in sorted(candidates, key=lambda name: candidates[name]):
        if candidates[name][1] <= left:
            left -= candidates[name][1]
            names.append(name)
    if not names:
        _refuse(candidates, memory_budget)
    return names[-1]


def _second_at_most(candidates: Candidates, memory_budget: int) -> str:
    first, *others = sorted(candidates, key=lambda name: candidates[name])
    if candidates[first][1] <= memory_budget or not others:
        return first
    return others[0]


_NO_ANSWER = (
    "Where nothing fits there is no name to return: say so with an error, so that nobody runs it by mistake."
)

_SELECT_MECHANISM = Answer(
    id="select-mechanism",
    solution=select_mechanism,
    why="First what cannot run is left out, then the rest is compared. Tuples compare by their first member and, where "
    "those are equal, by the second: the pair (seconds, bytes) is itself the order that is asked for. The error says "
    "what would have helped.",
    hints=(
        "Two steps, in this order: who fits? And of those, who is the fastest?",
        "Make a new dictionary of what fits; `bytes <= memory_budget` is what decides. If it is empty, "
        '`raise ValueError("…")`.',
        "`min(names, key=…)` takes the name whose key is smallest. What is the key, if of equal times the smaller "
        "memory is to win? Try `(1, 5) < (1, 7)` and `(1, 5) < (2, 0)` in Python.",
    ),
    mistakes=(
        Mistake("ignores-the-budget", "That is the fastest of all, whether it fits or not.",
                _select(lambda s, b, m: True)),
        Mistake("less-than", "A mechanism that needs exactly `memory_budget` bytes fits: `at most` includes the "
                "budget itself.", _select(lambda s, b, m: b < m)),
        Mistake("takes-what-does-not-fit", "What is looked at is what does *not* fit: which side of the comparison is "
                "the budget?", _select(lambda s, b, m: b >= m), _select(lambda s, b, m: b > m)),
        Mistake("smallest", "That is the one with the fewest bytes. Memory decides what can run at all; of that, time "
                "decides.", _select(order=lambda n, s, b: (b, s)), _select(order=lambda n, s, b: b)),
        Mistake("largest-that-fits", "That is the largest that fits. What is left of the budget is worth nothing: "
                "wanted is the fastest.", _select(order=lambda n, s, b: -b)),
        Mistake("slowest", "That is the slowest that fits.", _select(order=lambda n, s, b: (-s, b)),
                _select(order=lambda n, s, b: -s), _select(order=lambda n, s, b: (-s, -b))),
        Mistake("tie-to-the-larger", "Of equally fast ones the larger was taken. Which of two is left over for others?",
                _select(order=lambda n, s, b: (s, -b))),
        Mistake("tie-to-the-first", "Of equally fast ones that was taken that comes first in the dictionary. Their "
                "bytes decide.", _select(order=_by_time)),
        Mistake("tie-to-the-last", "Of equally fast ones that was taken that comes last in the dictionary. Their bytes "
                "decide.", _select(order=_by_time, last=True)),
        Mistake("tie-by-name", "Of equally fast ones that was taken whose name comes first in the alphabet. Their "
                "bytes decide.", _select(order=lambda n, s, b: (s, n))),
        Mistake("tie-by-the-last-name", "Of equally fast ones that was taken whose name comes last in the alphabet. "
                "Their bytes decide.", _select(order=lambda n, s, b: (s, [-ord(c) for c in n]))),
        Mistake("first-that-fits", "That is the first that fits, in the order of the dictionary. There may be a faster "
                "one after it.", _select(order=lambda n, s, b: 0)),
        Mistake("last-that-fits", "That is the last that fits, in the order of the dictionary: does each one that fits "
                "replace the one before it, faster or not?", _select(order=lambda n, s, b: 0, last=True)),
        Mistake("first-name", "That is the name that comes first in the alphabet: the names were compared, not the "
                "times.", _select(order=lambda n, s, b: n)),
        Mistake("last-name", "That is the name that comes last in the alphabet: the names were compared, not the "
                "times.", _select(order=lambda n, s, b: [-ord(c) for c in n])),
        Mistake("shortest-name", "That is the shortest name: `min` compared their lengths, not the times.",
                _select(order=lambda n, s, b: len(n))),
        Mistake("seconds-for-bytes", "Seconds and bytes have changed places: the budget was held against the times. "
                "Which of the pair comes first?", _select(lambda s, b, m: s <= m, order=lambda n, s, b: (b, s)),
                _select(lambda s, b, m: s <= m, order=lambda n, s, b: b)),
        Mistake("product", "Time and memory were multiplied. Memory that fits costs nothing: only time is left to "
                "decide.", _select(order=lambda n, s, b: s * b)),
        Mistake("sum", "Seconds and bytes were added, which no unit allows. Only time decides among what fits.",
                _select(order=lambda n, s, b: s + b)),
        Mistake("seconds-per-byte", "Time was divided by memory. Only time decides among what fits.",
                _select(order=lambda n, s, b: s / b)),
        Mistake("only-two-tried", "Where the fastest does not fit, the second was taken, whether it fits or not.",
                _second_at_most),
        Mistake("budget-used-up", "The budget was shared out among several mechanisms. Only one of them is going to "
                "run.", _together),
        Mistake("twice-the-budget", "The budget was held against another number than the bytes: is there a factor, or "
                "are these other units?", _select(lambda s, b, m: b <= 2 * m), _select(lambda s, b, m: 2 * b <= m)),
        Mistake("rounded-times", "The times were rounded before they were compared: nearly equal is not equal.",
                _select(order=lambda n, s, b: (round(s), b)), _select(order=lambda n, s, b: (round(s, 3), b)),
                _select(order=lambda n, s, b: (int(s), b)), _select(order=lambda n, s, b: (round(s, 2), b))),
        Mistake("none-when-nothing-fits", f"Where nothing fits, None came back. {_NO_ANSWER}",
                _select(nothing=lambda c, m: None)),
        Mistake("a-name-when-nothing-fits", "Where nothing fits, a name came back all the same, of something that "
                f"cannot run. {_NO_ANSWER}", _select(nothing=lambda c, m: min(c, key=lambda name: c[name][1])),
                _select(nothing=lambda c, m: min(c, key=lambda name: c[name])),
                _select(nothing=lambda c, m: next(iter(c)))),
        Mistake("a-word-when-nothing-fits", f"Where nothing fits, a word came back. {_NO_ANSWER}",
                _select(nothing=lambda c, m: ""), _select(nothing=lambda c, m: "none"),
                _select(nothing=lambda c, m: "ValueError"), _select(nothing=lambda c, m: "nothing fits"),
                _select(nothing=lambda c, m: False)),
        Mistake("error-returned", "The `ValueError` was returned. An error is raised, so that it cannot be overlooked: "
                "`raise`.", _select(nothing=lambda c, m: ValueError("nothing fits")),
                _select(nothing=lambda c, m: ValueError)),
        Mistake("returns-the-seconds", "The time came back. Wanted is the name.",
                _select(result=lambda name, c, ranked: c[name][0])),
        Mistake("returns-the-pair", "Seconds and bytes came back. Wanted is the name.",
                _select(result=lambda name, c, ranked: c[name])),
        Mistake("returns-the-bytes", "The bytes came back. Wanted is the name.",
                _select(result=lambda name, c, ranked: c[name][1])),
        Mistake("returns-name-and-pair", "The name came back with its numbers. Wanted is the name alone.",
                _select(result=lambda name, c, ranked: (name, c[name])),
                _select(result=lambda name, c, ranked: (name, *c[name])),
                _select(result=lambda name, c, ranked: (*c[name], name)),
                _select(result=lambda name, c, ranked: (c[name], name)),
                _select(result=lambda name, c, ranked: {name: c[name]})),
        Mistake("returns-a-list", "A list of names came back. Wanted is one: the first of those.",
                _select(result=lambda name, c, ranked: ranked), _select(result=lambda name, c, ranked: [name]),
                _select(result=lambda name, c, ranked: tuple(ranked)),
                _select(result=lambda name, c, ranked: [name for name in c if name in ranked])),
        Mistake("returns-a-place", "A number came back, the place in the dictionary. Wanted is the name.",
                _select(result=lambda name, c, ranked: list(c).index(name)),
                _select(result=lambda name, c, ranked: [n for n in c if n in ranked].index(name))),
    ),
)  # fmt: skip

ANSWERS = (
    _WINDOW_MASK,
    _WINDOW_ATTENTION,
    _SELECT_MECHANISM,
)
