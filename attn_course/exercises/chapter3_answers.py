"""Chapter 3, what must not stand beside a submission: solutions, hints and known wrong answers."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from .judge import Answer, Mistake

Tensor = torch.Tensor
Pair = tuple[Tensor, Tensor]

# ----------------------------------------------------------------------------------- channel-attention


def channel_attention(x, w1, w2):
    mean, largest = x.mean(dim=(2, 3)), x.amax(dim=(2, 3))
    scores = F.relu(mean @ w1.T) @ w2.T + F.relu(largest @ w1.T) @ w2.T
    return torch.sigmoid(scores)[:, :, None, None]


def _mean_and_largest(x: Tensor) -> Pair:
    return x.mean((2, 3)), x.amax((2, 3))


def _mlp(s: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    return F.relu(s @ w1.T) @ w2.T


def _sigmoid_of_sum(a: Tensor, m: Tensor) -> Tensor:
    return torch.sigmoid(a + m)


def _as_map(gate: Tensor, x: Tensor) -> Tensor:
    return gate[:, :, None, None]


def _channel(
    pool: Callable[[Tensor], Pair] = _mean_and_largest,
    mlp: Callable[[Tensor, Tensor, Tensor], Tensor] = _mlp,
    join: Callable[[Tensor, Tensor], Tensor] = _sigmoid_of_sum,
    result: Callable[[Tensor, Tensor], Any] = _as_map,
) -> Callable[..., Any]:
    """Channel attention with one of its steps done differently."""

    def attend(x: Tensor, w1: Tensor, w2: Tensor) -> Any:
        mean, largest = pool(x)
        return result(join(mlp(mean, w1, w2), mlp(largest, w1, w2)), x)

    return attend


def _active(
    between: Callable[[Tensor], Tensor] = lambda h: h,
    after: Callable[[Tensor], Tensor] = lambda z: z,
    before: Callable[[Tensor], Tensor] = lambda s: s,
) -> Callable[..., Any]:
    """Channel attention whose network has other functions before, between and after its two layers."""
    return _channel(mlp=lambda s, w1, w2: after(between(before(s) @ w1.T) @ w2.T))


def _one_vector(make: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """Channel attention that sends one vector, made of both summaries, through the network."""

    def attend(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        return torch.sigmoid(_mlp(make(*_mean_and_largest(x)), w1, w2))[:, :, None, None]

    return attend


def _one_without_relu(plain_mean: bool) -> Callable[..., Any]:
    def attend(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        pair = _mean_and_largest(x)
        plain, other = pair if plain_mean else pair[::-1]
        return torch.sigmoid(plain @ w1.T @ w2.T + _mlp(other, w1, w2))[:, :, None, None]

    return attend


def _conv_mlp(s: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    return F.conv2d(F.relu(F.conv2d(s, w1[:, :, None, None])), w2[:, :, None, None])


def _keeping(x: Tensor) -> Pair:
    return x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)


def _conv_of_both(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    return torch.sigmoid(_conv_mlp(torch.cat(_keeping(x), 1), w1, w2))


_SHAPES = (
    "A product with `w1` or `w2` does not fit. Each has a row for every number that comes out and a column for every "
    "number that goes in: write down what goes in, image by image."
)
_TWO_SUMMARIES = "Each channel has two summaries, and each of the two goes through the network."
_OVER_SPACE = "A channel's summary is made of all its pixels, and of nothing else."

_CHANNEL_ATTENTION = Answer(
    id="channel-attention",
    solution=channel_attention,
    why="The average says how much of a channel there is in the image, the maximum whether it is there at all. The "
    "same network judges both, so the weights cost no more than for one. The sum of two scores is a score; a sum of "
    "two sigmoids would be no weight, for it can exceed 1.",
    hints=(
        "Follow the shapes: from `(B, C, H, W)` to two times `(B, C)`, through the hidden `(B, C/r)` back to `(B, C)`, "
        "and from there to `(B, C, 1, 1)`.",
        "Which dimensions hold the pixels of a channel? The summaries run over those two, and leave `(B, C)`. A "
        "vector goes through a layer without bias as `s @ w.T`, or `F.linear(s, w)`.",
        "The network is used twice, with the same weights, the ReLU between its two layers each time: so a small "
        "function for it pays. Is the sigmoid before or after the sum?",
        "`mlp = lambda s: F.relu(s @ w1.T) @ w2.T`; then `mlp` of the average plus `mlp` of the maximum. What is left "
        "is the sigmoid, and two dimensions of size 1.",
    ),
    mistakes=(
        Mistake("average-only", f"The largest pixel of a channel has no part in its weight. {_TWO_SUMMARIES}",
                _channel(join=lambda a, m: torch.sigmoid(a))),
        Mistake("max-only", f"The average of a channel has no part in its weight. {_TWO_SUMMARIES}",
                _channel(join=lambda a, m: torch.sigmoid(m))),
        Mistake("average-twice", f"The average was taken twice, and the maximum never. {_TWO_SUMMARIES}",
                _channel(join=lambda a, m: torch.sigmoid(a + a))),
        Mistake("max-twice", f"The maximum was taken twice, and the average never. {_TWO_SUMMARIES}",
                _channel(join=lambda a, m: torch.sigmoid(m + m))),
        Mistake("sigmoid-before-the-sum", "The sigmoid was taken of each branch, and then the sum: that can exceed 1, "
                "and a weight cannot. What should be added, weights or scores?",
                _channel(join=lambda a, m: a.sigmoid() + m.sigmoid())),
        Mistake("mean-of-two-gates", "Each branch got a sigmoid of its own, and the two weights were averaged. What "
                "should meet before the sigmoid?", _channel(join=lambda a, m: (a.sigmoid() + m.sigmoid()) / 2)),
        Mistake("product-of-two-gates", "Each branch got a sigmoid of its own, and the two weights were multiplied. "
                "What should meet before the sigmoid, and how?",
                _channel(join=lambda a, m: a.sigmoid() * m.sigmoid())),
        Mistake("mean-of-branches", "The two branches are averaged before the sigmoid; they should be added.",
                _channel(join=lambda a, m: torch.sigmoid((a + m) / 2))),
        Mistake("product-of-branches", "The two branches are multiplied before the sigmoid; they should be added.",
                _channel(join=lambda a, m: torch.sigmoid(a * m))),
        Mistake("largest-of-branches", "Of the two branches the larger one is taken; both should count, as a sum.",
                _channel(join=lambda a, m: torch.sigmoid(torch.maximum(a, m)))),
        Mistake("difference-of-branches", "One branch is subtracted from the other; they should be added.",
                _channel(join=lambda a, m: torch.sigmoid(a - m)), _channel(join=lambda a, m: torch.sigmoid(m - a))),
        Mistake("summaries-added", "Average and maximum were added before the network, which then saw one vector "
                "instead of two. With a ReLU inside, the network of a sum is not the sum of the networks.",
                _one_vector(lambda a, m: a + m)),
        Mistake("summaries-averaged", "Average and maximum were averaged before the network, which then saw one vector "
                "instead of two. With a ReLU inside, that is not the same.", _one_vector(lambda a, m: (a + m) / 2)),
        Mistake("relu-missing", "There is no ReLU between the two layers, so they act as one matrix. For which hidden "
                "numbers does that make a difference?", _active()),
        Mistake("relu-on-one-branch", "One of the two branches has no ReLU. Both go through the same network.",
                _one_without_relu(True), _one_without_relu(False)),
        Mistake("relu-after-the-second-layer", "The ReLU comes after the second layer; it belongs between the two. "
                "After it, no weight could be below a half.", _active(after=F.relu),
                _channel(mlp=lambda s, w1, w2: s @ w1.T @ w2.T, join=lambda a, m: torch.sigmoid(F.relu(a + m)))),
        Mistake("relu-after-both-layers", "There is a ReLU after the second layer too: no weight can be below a half. "
                "How many has this network?", _active(F.relu, F.relu),
                _channel(join=lambda a, m: torch.sigmoid(F.relu(a + m)))),
        Mistake("relu-before-the-first-layer", "A ReLU was applied to the summaries, before the first layer. Where in "
                "the network does it stand, and how many are there?", _active(before=F.relu),
                _active(F.relu, before=F.relu)),
        Mistake("other-activation", "Between the two layers stands something, but not a ReLU.",
                _active(torch.sigmoid), _active(torch.tanh), _active(F.gelu), _active(F.silu), _active(F.leaky_relu),
                _active(F.elu)),
        Mistake("no-sigmoid", "The sum of the two branches is returned as it is: nothing keeps it between 0 and 1.",
                _channel(join=lambda a, m: a + m)),
        Mistake("softmax", "A softmax makes the channels compete: their weights sum to 1. Here each channel is let "
                "through or not by itself.", _channel(join=lambda a, m: torch.softmax(a + m, 1)),
                _channel(join=lambda a, m: torch.softmax(a + m, 0))),
        Mistake("softmax-of-one-number", "All weights are 1, whatever the input, as a softmax over a dimension of size "
                "1 makes them. Here each channel is let through or not by itself.",
                _channel(join=lambda a, m: torch.ones_like(a))),
        Mistake("sigmoid-twice", "The sigmoid was applied twice: no weight is below a half.",
                _channel(join=lambda a, m: torch.sigmoid(a + m).sigmoid())),
        Mistake("tanh", "The weights are the tanh of the sum; some are below 0.",
                _channel(join=lambda a, m: torch.tanh(a + m))),
        Mistake("sum-instead-of-average", "The pixels of a channel were summed, not averaged: the summary then grows "
                "with the size of the map.", _channel(pool=lambda x: (x.sum((2, 3)), x.amax((2, 3))))),
        Mistake("min-instead-of-max", "The second summary is the smallest pixel of a channel; it should be the "
                "largest.", _channel(pool=lambda x: (x.mean((2, 3)), x.amin((2, 3))))),
        Mistake("max-of-absolute-values", "The second summary looks at the size of a pixel without its sign. Which "
                "pixel is the largest when all are below 0?",
                _channel(pool=lambda x: (x.mean((2, 3)), x.abs().amax((2, 3))))),
        Mistake("max-not-below-zero", "The maximum of a channel whose pixels are all below 0 came out as 0. With what "
                "does the search for a maximum begin?",
                _channel(pool=lambda x: (x.mean((2, 3)), x.amax((2, 3)).clamp_min(0)))),
        Mistake("max-over-one-side-only", "The maximum runs over one side of the map, and the average over the other. "
                f"{_OVER_SPACE}", _channel(pool=lambda x: (x.mean((2, 3)), x.amax(2).mean(2))),
                _channel(pool=lambda x: (x.mean((2, 3)), x.amax(3).mean(2)))),
        Mistake("place-of-the-maximum", "The second summary says *where* the largest pixel is, not how large it is.",
                _channel(pool=lambda x: (x.mean((2, 3)), x.flatten(2).argmax(2).to(x.dtype)))),
        Mistake("pooled-over-the-batch", "The images of the batch were pooled into one. Each has weights of its own.",
                _channel(pool=lambda x: (x.mean((0, 2, 3))[None], x.amax((0, 2, 3))[None])),
                _channel(pool=lambda x: (x.mean((0, 2, 3))[None], x.amax((0, 2, 3))[None]),
                         result=lambda gate, x: gate.expand(x.shape[:2])[:, :, None, None])),
        Mistake("pooled-over-the-channels", "The summaries run over the channels, so there is one for each pixel. "
                f"{_OVER_SPACE} Which dimensions of `(B, C, H, W)` hold the pixels?",
                _channel(pool=lambda x: (x.mean(1).flatten(1), x.amax(1).flatten(1))),
                _channel(pool=lambda x: (x.mean((1, 2)), x.amax((1, 2)))),
                _channel(pool=lambda x: (x.mean((1, 3)), x.amax((1, 3))))),
        Mistake("max-over-the-channels", "The maximum runs over the channels, so there is one for each pixel. "
                f"{_OVER_SPACE} Which dimensions of `(B, C, H, W)` hold the pixels?",
                _channel(pool=lambda x: (x.mean((2, 3)), x.amax(1).flatten(1))),
                _channel(pool=lambda x: (x.mean((2, 3)), x.amax(1).mean((1, 2))[:, None].expand(x.shape[:2]))),
                _channel(pool=lambda x: (x.mean((2, 3)), x.amax((1, 2)))),
                _channel(pool=lambda x: (x.mean((2, 3)), x.amax((1, 3))))),
        Mistake("weights-exchanged", "The first layer uses `w2`, the second `w1`: the shapes happen to fit when "
                "neither is turned. Which of the two makes `C/r` numbers of `C`, and what are its rows?",
                _channel(mlp=lambda s, w1, w2: F.relu(s @ w2) @ w1),
                _channel(mlp=lambda s, w1, w2: F.relu(s @ w2.T) @ w1.T)),
        Mistake("weights-not-turned", _SHAPES,
                _channel(mlp=lambda s, w1, w2: F.relu(s @ w1) @ w2),
                _channel(mlp=lambda s, w1, w2: F.relu(s @ w1) @ w2.T),
                _channel(mlp=lambda s, w1, w2: F.relu(s @ w1.T) @ w2),
                _channel(mlp=lambda s, w1, w2: (w2 @ F.relu(w1 @ s)))),
        Mistake("summaries-not-flattened", _SHAPES,
                _channel(pool=_keeping, result=lambda gate, x: gate)),
        Mistake("squeeze-drops-the-batch", "`squeeze` drops every dimension of size 1, the batch too when it is one "
                "image. Which dimensions are meant?",
                _channel(pool=lambda x: (x.mean((2, 3)).squeeze(), x.amax((2, 3)).squeeze()),
                         result=lambda gate, x: gate[..., None, None])),
        Mistake("map-not-pooled", "The pixels were not summarised: the product with `w1` runs along the width of the "
                "map.", _channel(pool=lambda x: (x, x), result=lambda gate, x: gate)),
        Mistake("summaries-concatenated", "Average and maximum were joined into one vector of 2C numbers, which `w1` "
                "does not take. They are two vectors of C, and the network sees one at a time.",
                _one_vector(lambda a, m: torch.cat([a, m], 1)), _conv_of_both),
        Mistake("branches-concatenated", "The two branches stand side by side, 2C weights for C channels. How do they "
                "become one score for each channel?",
                _channel(join=lambda a, m: torch.sigmoid(torch.cat([a, m], 1)))),
        Mistake("branches-stacked", "The results of the two branches were put one behind the other: twice as many "
                "images as there are. How do they become one score for each channel?",
                _channel(join=lambda a, m: torch.sigmoid(torch.cat([a, m], 0)))),
        Mistake("returns-the-map", "The map is returned, multiplied by the weights; wanted are the weights alone.",
                _channel(result=lambda gate, x: x * gate[:, :, None, None])),
        Mistake("returns-the-map-with-residual", "The map is returned, multiplied by the weights and added to itself; "
                "wanted are the weights alone.", _channel(result=lambda gate, x: x + x * gate[:, :, None, None])),
        Mistake("no-room-for-pixels", "The numbers are the right ones, in another shape: the weights should broadcast "
                "over the map, `(B, C, 1, 1)`.", _channel(result=lambda gate, x: gate),
                _channel(result=lambda gate, x: gate[:, :, None]),
                _channel(result=lambda gate, x: gate[:, None, None]),
                _channel(result=lambda gate, x: gate[:, None]),
                _channel(result=lambda gate, x: gate[None, None]),
                _channel(result=lambda gate, x: gate[:, :, None, None].squeeze())),
        Mistake("spread-over-the-map", "The weights are copied for every pixel. One for each channel is enough, "
                "`(B, C, 1, 1)`: it broadcasts.", _channel(result=lambda gate, x: gate[:, :, None, None].expand_as(x))),
        Mistake("weights-squared", "The weights are squared: were they multiplied by themselves, or taken twice?",
                _channel(join=lambda a, m: torch.sigmoid(a + m) ** 2)),
        Mistake("inverted", "The weights are the wrong way round: what should be let through is held back. Check the "
                "sign under the exponential.", _channel(join=lambda a, m: torch.sigmoid(-a - m))),
    ),
)  # fmt: skip

# ----------------------------------------------------------------------------------- spatial-attention


def spatial_attention(x, weight):
    maps = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
    return torch.sigmoid(F.conv2d(maps, weight, padding=weight.shape[-1] // 2))


def _side_by_side(mean: Tensor, largest: Tensor) -> Tensor:
    return torch.cat([mean, largest], 1)


def _same_conv(maps: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(maps, weight, padding=weight.shape[-1] // 2)


def _spatial(
    pool: Callable[[Tensor], Pair] = lambda x: (x.mean(1, True), x.amax(1, True)),
    join: Callable[[Tensor, Tensor], Tensor] = _side_by_side,
    conv: Callable[[Tensor, Tensor], Tensor] = _same_conv,
    gate: Callable[[Tensor], Tensor] = torch.sigmoid,
    result: Callable[[Tensor, Tensor], Any] = lambda weights, x: weights,
) -> Callable[..., Any]:
    """Spatial attention with one of its steps done differently."""
    return lambda x, weight: result(gate(conv(join(*pool(x)), weight)), x)


def _padded(padding: Callable[[int], int]) -> Callable[..., Any]:
    return _spatial(conv=lambda maps, weight: F.conv2d(maps, weight, padding=padding(weight.shape[-1])))


def _padded_by(mode: str) -> Callable[..., Any]:
    def conv(maps: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(F.pad(maps, [weight.shape[-1] // 2] * 4, mode=mode), weight)

    return _spatial(conv=conv)


def _padded_with(value: Callable[[Tensor], float]) -> Callable[..., Any]:
    """``x`` is padded before its channels are summarised, or the maps with something else than 0."""

    def conv(maps: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(F.pad(maps, [weight.shape[-1] // 2] * 4, value=value(maps)), weight)

    return _spatial(conv=conv)


def _at_one_end(maps: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(F.pad(maps, [0, weight.shape[-1] - 1] * 2), weight)


def _at_the_other_end(maps: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(F.pad(maps, [weight.shape[-1] - 1, 0] * 2), weight)


def _unpadded_and_filled(maps: Tensor, weight: Tensor) -> Tensor:
    """Nothing but the pixels whose whole neighbourhood is on the map; zeros around the result."""
    return F.pad(F.conv2d(maps, weight), [weight.shape[-1] // 2] * 4)


_OVER_CHANNELS = "A pixel's summary is made of its channels, which are dimension 1."
_FIXED = (
    "The padding is right for one size of kernel only. How many pixels does a kernel of k reach over the edge, when "
    "its centre is on it?"
)

_SPATIAL_ATTENTION = Answer(
    id="spatial-attention",
    solution=spatial_attention,
    why="Two maps say what is at each pixel, over all channels: how much, and the strongest single feature. The kernel "
    "makes a judgement of a neighbourhood of them. k // 2 zeros on each side keep the size, because the centre of the "
    "kernel then stands on every pixel once.",
    hints=(
        "Follow the shapes: from `(B, C, H, W)` to two times `(B, 1, H, W)`, put together as `(B, 2, H, W)`, and "
        "through the convolution to `(B, 1, H, W)`.",
        "Which dimension holds the channels? `keepdim=True` leaves it there with size 1, so that `torch.cat` along it "
        "can put the two maps side by side. The order counts: each map has a kernel of its own in `weight`.",
        "`F.conv2d(maps, weight, padding=…)` is the convolution of `nn.Conv2d`. A kernel of 3 reaches one pixel over "
        "the edge, one of 7 reaches three. And in general?",
        "With `mean` and `largest` of shape `(B, 1, H, W)`: `torch.cat([mean, largest], dim=1)`, the convolution with "
        "`padding=k // 2`. Which function makes weights between 0 and 1 of it?",
    ),
    mistakes=(
        Mistake("max-first", "The two maps are in the wrong order: each has its own kernel in `weight`, and the "
                "first is that of the averages.", _spatial(join=lambda a, m: torch.cat([m, a], 1))),
        Mistake("average-twice", "Both maps are the average; one should be the largest of a pixel's channels.",
                _spatial(join=lambda a, m: torch.cat([a, a], 1))),
        Mistake("max-twice", "Both maps are the maximum; the first should be the average of a pixel's channels.",
                _spatial(join=lambda a, m: torch.cat([m, m], 1))),
        Mistake("average-only", "The map of the maxima has no part in the result.",
                _spatial(join=lambda a, m: torch.cat([a, 0 * m], 1))),
        Mistake("max-only", "The map of the averages has no part in the result.",
                _spatial(join=lambda a, m: torch.cat([0 * a, m], 1))),
        Mistake("maps-added", "The two maps were added before the convolution. Each has a kernel of its own.",
                _spatial(join=lambda a, m: torch.cat([a + m, a + m], 1)),
                _spatial(join=lambda a, m: (a + m).expand(-1, 2, -1, -1) / 2)),
        Mistake("no-padding", "Without padding the result is smaller than the map: a kernel that stays inside of it "
                "cannot have its centre on the edge.", _padded(lambda k: 0)),
        Mistake("padding-too-large", "Too much padding: the result is larger than the map. How many pixels does a "
                "kernel of k reach over the edge, when its centre is on it?", _padded(lambda k: k),
                _padded(lambda k: k - 1), _padded(lambda k: (k + 1) // 2)),
        Mistake("padding-too-small", "Too little padding: the result is smaller than the map. How many pixels does a "
                "kernel of k reach over the edge, when its centre is on it?",
                _padded(lambda k: max(k // 2 - 1, 0)), _padded(lambda k: k // 3), _padded(lambda k: k // 4)),
        Mistake("padding-always-1", _FIXED, _padded(lambda k: 1)),
        Mistake("padding-always-2", _FIXED, _padded(lambda k: 2)),
        Mistake("padding-always-3", _FIXED, _padded(lambda k: 3)),
        Mistake("padding-at-one-end", "All of the padding is on one side, which moves the map: the centre of the "
                "kernel should stand on the pixel that is judged.", _spatial(conv=_at_one_end),
                _spatial(conv=_at_the_other_end)),
        Mistake("padding-after-the-convolution", "The convolution was not padded, and zeros were put around its "
                "result: the pixels near the edge are not judged at all.", _spatial(conv=_unpadded_and_filled)),
        Mistake("padding-repeats-the-edge", "Beyond the edge the map was continued; \"same\" padding puts zeros there.",
                _padded_by("replicate"), _padded_by("reflect"), _padded_by("circular")),
        Mistake("padding-with-ones", "The padding is not zero. What does a pixel outside of the map contribute?",
                _padded_with(lambda maps: 1.0), _padded_with(lambda maps: float(maps.detach().mean()))),
        Mistake("no-sigmoid", "The result of the convolution is returned as it is: nothing keeps it between 0 and 1.",
                _spatial(gate=lambda s: s)),
        Mistake("sigmoid-before-the-convolution", "The sigmoid was applied to the two maps, before the convolution: "
                "nothing keeps its result between 0 and 1.",
                _spatial(join=lambda a, m: torch.cat([a, m], 1).sigmoid(), gate=lambda s: s)),
        Mistake("sigmoid-twice", "There is a sigmoid too many: one, after the convolution, is enough.",
                _spatial(gate=lambda s: s.sigmoid().sigmoid()),
                _spatial(join=lambda a, m: torch.cat([a, m], 1).sigmoid())),
        Mistake("softmax", "A softmax makes the pixels compete: their weights sum to 1. Here each pixel is let through "
                "or not by itself.", _spatial(gate=lambda s: s.flatten(1).softmax(1).reshape(s.shape)),
                _spatial(gate=lambda s: s.softmax(-1)), _spatial(gate=lambda s: s.softmax(-2)),
                _spatial(gate=lambda s: s.softmax(0))),
        Mistake("softmax-of-one-number", "All weights are 1, whatever the input, as a softmax over a dimension of size "
                "1 makes them. Here each pixel is let through or not by itself.",
                _spatial(gate=lambda s: s.softmax(1))),
        Mistake("tanh", "The weights are the tanh of the convolution; some are below 0.", _spatial(gate=torch.tanh)),
        Mistake("relu-before-the-sigmoid", "A ReLU stands before the sigmoid: no weight is below a half.",
                _spatial(gate=lambda s: F.relu(s).sigmoid())),
        Mistake("inverted", "The weights are the wrong way round: what should be let through is held back. Check the "
                "sign under the exponential.", _spatial(gate=lambda s: torch.sigmoid(-s))),
        Mistake("sum-instead-of-average", "The channels of a pixel were summed, not averaged: the map then grows with "
                "their number.", _spatial(pool=lambda x: (x.sum(1, True), x.amax(1, True)))),
        Mistake("min-instead-of-max", "The second map is the smallest channel of a pixel; it should be the largest.",
                _spatial(pool=lambda x: (x.mean(1, True), x.amin(1, True)))),
        Mistake("max-of-absolute-values", "The second map looks at the size of a channel without its sign. Which is "
                "the largest when all are below 0?", _spatial(pool=lambda x: (x.mean(1, True), x.abs().amax(1, True)))),
        Mistake("max-not-below-zero", "The maximum of a pixel whose channels are all below 0 came out as 0. With what "
                "does the search for a maximum begin?",
                _spatial(pool=lambda x: (x.mean(1, True), x.amax(1, True).clamp_min(0)))),
        Mistake("place-of-the-maximum", "The second map says *which* channel is the largest, not how large it is.",
                _spatial(pool=lambda x: (x.mean(1, True), x.argmax(1, True).to(x.dtype)))),
        Mistake("kernel-flipped", "The kernel was turned round, as in the convolution of the textbooks. `nn.Conv2d` "
                "lays it on the map as it is: `weight[…, 0, 0]` is for the neighbour above and to the left.",
                _spatial(conv=lambda maps, weight: _same_conv(maps, weight.flip(2, 3)))),
        Mistake("kernel-transposed", "The kernel was laid on the map with its rows and columns exchanged.",
                _spatial(conv=lambda maps, weight: _same_conv(maps, weight.mT))),
        Mistake("not-two-channels", "The convolution was given something else than two channels. It takes, of each "
                "image, one map of averages and one of maxima, side by side in dimension 1.",
                _spatial(join=lambda a, m: a + m), lambda x, weight: torch.sigmoid(_same_conv(x, weight)),
                _spatial(join=lambda a, m: torch.stack([a[:, 0], m[:, 0]], 0)),
                _spatial(join=lambda a, m: torch.cat([a[:, 0], m[:, 0]], 1))),
        Mistake("pooled-over-the-pixels", "The summaries run over the pixels, so there is one for each channel. "
                f"{_OVER_CHANNELS}",
                _spatial(pool=lambda x: (x.mean((2, 3), True), x.amax((2, 3), True))),
                _spatial(pool=lambda x: (x.mean((2, 3), True), x.amax((2, 3), True)),
                         join=lambda a, m: torch.cat([a, m], 2))),
        Mistake("pooled-over-dim-0", f"The summaries run over the images of the batch. {_OVER_CHANNELS}",
                _spatial(pool=lambda x: (x.mean(0, True), x.amax(0, True))),
                _spatial(pool=lambda x: (x.mean(0), x.amax(0)), join=lambda a, m: torch.stack([a, m], 1))),
        Mistake("pooled-over-dim-2", f"The summaries run over the rows of the map. {_OVER_CHANNELS}",
                _spatial(pool=lambda x: (x.mean(2), x.amax(2)), join=lambda a, m: torch.stack([a, m], 1))),
        Mistake("pooled-over-dim-3", f"The summaries run over the columns of the map. {_OVER_CHANNELS}",
                _spatial(pool=lambda x: (x.mean(3), x.amax(3)), join=lambda a, m: torch.stack([a, m], 1))),
        Mistake("one-kernel-for-each-map", "Each of the two maps has a result of its own; one kernel of `weight` runs "
                "over both, and adds what it finds.",
                _spatial(conv=lambda maps, w: F.conv2d(maps, w.transpose(0, 1), padding=w.shape[-1] // 2, groups=2)),
                _spatial(conv=lambda maps, w: F.conv2d(maps, w.transpose(0, 1), padding=w.shape[-1] // 2, groups=2),
                         gate=lambda s: s.sigmoid().sum(1, keepdim=True))),
        Mistake("returns-the-map", "The map is returned, multiplied by the weights; wanted are the weights alone.",
                _spatial(result=lambda weights, x: x * weights)),
        Mistake("returns-the-map-with-residual", "The map is returned, multiplied by the weights and added to itself; "
                "wanted are the weights alone.", _spatial(result=lambda weights, x: x + x * weights)),
        Mistake("no-room-for-channels", "The numbers are the right ones, in another shape: the weights should "
                "broadcast over the channels, `(B, 1, H, W)`.", _spatial(result=lambda weights, x: weights[:, 0]),
                _spatial(result=lambda weights, x: weights.flatten(2)),
                _spatial(result=lambda weights, x: weights.flatten(1)),
                _spatial(result=lambda weights, x: weights.squeeze())),
        Mistake("spread-over-the-channels", "The weights are copied for every channel. One for each pixel is enough, "
                "`(B, 1, H, W)`: it broadcasts.", _spatial(result=lambda weights, x: weights.expand_as(x))),
    ),
)  # fmt: skip

# ------------------------------------------------------------------------------------------------ cbam


def cbam(x, w1, w2, weight):
    mean, largest = x.mean(dim=(2, 3)), x.amax(dim=(2, 3))
    scores = F.relu(mean @ w1.T) @ w2.T + F.relu(largest @ w1.T) @ w2.T
    x = x * torch.sigmoid(scores)[:, :, None, None]
    maps = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
    return x * torch.sigmoid(F.conv2d(maps, weight, padding=weight.shape[-1] // 2))


Gate = Callable[[Tensor], Tensor]


def _cbam(combine: Callable[[Tensor, Gate, Gate], Any]) -> Callable[..., Any]:
    """``combine`` of a map and two functions, from a map to its channel weights and to its spatial weights."""

    def attend(x: Tensor, w1: Tensor, w2: Tensor, weight: Tensor) -> Any:
        return combine(x, lambda y: channel_attention(y, w1, w2), lambda y: spatial_attention(y, weight))

    return attend


def _with(
    channel: Callable[..., Any] = channel_attention, spatial: Callable[..., Any] = spatial_attention
) -> Callable[..., Any]:
    """CBAM whose steps are put together rightly, of which one is wrong."""

    def attend(x: Tensor, w1: Tensor, w2: Tensor, weight: Tensor) -> Any:
        x = x * channel(x, w1, w2)
        return x * spatial(x, weight)

    return attend


def _nothing(k: int) -> int:
    return 0


def _always_1(k: int) -> int:
    return 1


def _always_3(k: int) -> int:
    return 3


def _all_of_k(k: int) -> int:
    return k


_EARLIER = "Put together they are right; look at the exercise before."

_CBAM = Answer(
    id="cbam",
    solution=cbam,
    why="The name `x` is given to the refined map, so whatever comes after can only see that: both the summaries of "
    "spatial attention and what its weights multiply. With your two functions it is two lines: "
    "x = x * channel_attention(x, w1, w2), and then x * spatial_attention(x, weight).",
    hints=(
        "Draw the path of the map: it meets two multiplications. Which map goes into each, and of which map are the "
        "weights worked out?",
        "`channel_attention(x, w1, w2)` is `(B, C, 1, 1)` and `spatial_attention(…, weight)` is `(B, 1, H, W)`: both "
        "broadcast against the map, so a product is all that a step needs.",
        "First step: `refined = x * channel_attention(x, w1, w2)`. In the second, `x` has no part any more. What "
        "stands in the two places where it stood?",
    ),
    mistakes=(
        Mistake("spatial-first", "Spatial attention came first: the channels should be weighed before the pixels.",
                _cbam(lambda x, c, s: (lambda y: y * c(y))(x * s(x)))),
        Mistake("parallel", "Spatial attention looked at the original map, beside channel attention. It comes after "
                "it: which map does it see then?", _cbam(lambda x, c, s: x * c(x) * s(x))),
        Mistake("spatial-only", "Channel attention does not show in the result.", _cbam(lambda x, c, s: x * s(x))),
        Mistake("channel-only", "Spatial attention does not show in the result.", _cbam(lambda x, c, s: x * c(x))),
        Mistake("original-map-at-the-end", "The spatial weights are those of the refined map, but they multiply the "
                "original one: what channel attention did is lost.", _cbam(lambda x, c, s: x * s(x * c(x)))),
        Mistake("channel-step-not-multiplied", "Spatial attention was given the channel *weights*, which are no map: "
                "the first step is complete when they have multiplied one.",
                _cbam(lambda x, c, s: x * c(x) * s(c(x))), _cbam(lambda x, c, s: x * s(c(x))),
                _cbam(lambda x, c, s: c(x) * s(c(x))), _cbam(lambda x, c, s: s(c(x))),
                _cbam(lambda x, c, s: x * s(c(x).expand_as(x))),
                _cbam(lambda x, c, s: x * c(x) * s(c(x).expand_as(x)))),
        Mistake("gates-added", "The two weights were added. Each step multiplies the map that it is given.",
                _cbam(lambda x, c, s: x * (c(x) + s(x))), _cbam(lambda x, c, s: x * (c(x) + s(x * c(x))))),
        Mistake("branches-added", "The refined map and the result of the second step were added; the second step "
                "replaces the first.", _cbam(lambda x, c, s: (lambda y: y + y * s(y))(x * c(x)))),
        Mistake("gates-averaged", "The two weights were averaged. Each step multiplies the map that it is given.",
                _cbam(lambda x, c, s: x * (c(x) + s(x)) / 2),
                _cbam(lambda x, c, s: x * (c(x) + s(x * c(x))) / 2)),
        Mistake("residual-added", "The map that came in was added to the result. This module only weighs; an addition "
                "is what a network puts around it.", _cbam(lambda x, c, s: x + (lambda y: y * s(y))(x * c(x)))),
        Mistake("residual-at-each-step", "Each step adds what it was given to its result. A step is a product, and "
                "nothing else.", _cbam(lambda x, c, s: (lambda y: y + y * s(y))(x + x * c(x)))),
        Mistake("residual-at-the-first-step", "The first step adds what it was given to its result. A step is a "
                "product, and nothing else.", _cbam(lambda x, c, s: (lambda y: y * s(y))(x + x * c(x)))),
        Mistake("weights-added-to-the-map", "The weights were added to the map. They say how much of it is let "
                "through: which operation does that?", _cbam(lambda x, c, s: (lambda y: y + s(y))(x + c(x))),
                _cbam(lambda x, c, s: (lambda y: y * s(y))(x + c(x))),
                _cbam(lambda x, c, s: (lambda y: y + s(y))(x * c(x)))),
        Mistake("channel-weights-twice", "The channel weights were multiplied in twice: the refined map has them "
                "already.", _cbam(lambda x, c, s: x * c(x) * c(x) * s(x * c(x))),
                _cbam(lambda x, c, s: (lambda y: y * c(y) * s(y))(x * c(x))),
                _cbam(lambda x, c, s: (lambda y: y * s(y))(x * c(x) * c(x)))),
        Mistake("spatial-weights-twice", "The spatial weights were multiplied in twice.",
                _cbam(lambda x, c, s: (lambda y: y * s(y) * s(y))(x * c(x)))),
        Mistake("map-squared", "The original map was multiplied in once more: the second step multiplies the refined "
                "map alone, which has it already.", _cbam(lambda x, c, s: x * (lambda y: y * s(y))(x * c(x)))),
        Mistake("module-twice", "The map went through the whole module twice.",
                _cbam(lambda x, c, s: (lambda z: (lambda y: y * s(y))(z * c(z)))((lambda y: y * s(y))(x * c(x))))),
        Mistake("returns-spatial-weights", "The spatial weights are returned; wanted is the map that they have "
                "weighed.", _cbam(lambda x, c, s: s(x * c(x)))),
        Mistake("returns-the-product-of-weights", "The product of the two weights is returned; wanted is the map that "
                "they have weighed.", _cbam(lambda x, c, s: c(x) * s(x * c(x))), _cbam(lambda x, c, s: c(x) * s(x))),
        Mistake("returns-weights-too", "More than the map is returned; the map alone is wanted.",
                _cbam(lambda x, c, s: (lambda y: (y * s(y), c(x), s(y)))(x * c(x))),
                _cbam(lambda x, c, s: (lambda y: (y * s(y), (c(x), s(y))))(x * c(x))),
                _cbam(lambda x, c, s: (lambda y: (y * s(y), s(y)))(x * c(x)))),
        Mistake("nothing-done", "The map came back as it went in.", _cbam(lambda x, c, s: x * 1)),
        Mistake("relu-at-the-end", "The numbers below 0 are cut off. There is one ReLU in this module: where?",
                _cbam(lambda x, c, s: F.relu((lambda y: y * s(y))(x * c(x))))),
        Mistake("sigmoid-at-the-end", "The map was sent through a sigmoid. Only weights lie between 0 and 1.",
                _cbam(lambda x, c, s: (lambda y: y * s(y))(x * c(x)).sigmoid())),
        Mistake("channel-average-only", f"The channel weights are made of the averages alone. {_EARLIER}",
                _with(_channel(join=lambda a, m: torch.sigmoid(a)))),
        Mistake("channel-max-only", f"The channel weights are made of the maxima alone. {_EARLIER}",
                _with(_channel(join=lambda a, m: torch.sigmoid(m)))),
        Mistake("channel-sigmoid-before-the-sum", "In the channel weights the sigmoid was taken of each branch, and "
                f"then the sum. {_EARLIER}", _with(_channel(join=lambda a, m: a.sigmoid() + m.sigmoid()))),
        Mistake("channel-no-relu", f"In the channel weights there is no ReLU between the two layers. {_EARLIER}",
                _with(_active())),
        Mistake("channel-no-sigmoid", f"The channel weights are not between 0 and 1. {_EARLIER}",
                _with(_channel(join=lambda a, m: a + m))),
        Mistake("channel-softmax", "The channel weights are made by a softmax, and sum to 1. "
                f"{_EARLIER}", _with(_channel(join=lambda a, m: torch.softmax(a + m, 1)))),
        Mistake("channel-summaries-added", "Average and maximum were added before the network of the channel "
                f"weights. {_EARLIER}", _with(_one_vector(lambda a, m: a + m))),
        Mistake("channel-map-for-weights", "The channel step multiplied by a map that was multiplied already: does "
                "your `channel_attention` return the weights alone?",
                _with(_channel(result=lambda gate, x: x * gate[:, :, None, None]))),
        Mistake("spatial-max-first", f"In the spatial weights the two maps are in the wrong order. {_EARLIER}",
                _with(spatial=_spatial(join=lambda a, m: torch.cat([m, a], 1)))),
        Mistake("spatial-no-sigmoid", f"The spatial weights are not between 0 and 1. {_EARLIER}",
                _with(spatial=_spatial(gate=lambda s: s))),
        Mistake("weights-do-not-fit-the-map", "A map and the weights that should multiply it do not have sizes that go "
                "together: `(B, C, 1, 1)` does for the channels, `(B, 1, H, W)` for the pixels, with the H and W of "
                f"the map. {_EARLIER}",
                *(_with(spatial=_padded(padding)) for padding in (_nothing, _always_1, _always_3, _all_of_k)),
                _with(_channel(result=lambda gate, x: gate)), _with(_channel(result=lambda gate, x: gate[:, :, None])),
                _with(spatial=_spatial(result=lambda weights, x: weights[:, 0]))),
        Mistake("spatial-map-for-weights", "The spatial step multiplied by a map that was multiplied already: does "
                "your `spatial_attention` return the weights alone?",
                _with(spatial=_spatial(result=lambda weights, x: x * weights))),
        Mistake("maps-for-weights", "Both steps multiplied by a map that was multiplied already: do your two functions "
                "return the weights alone?",
                _with(_channel(result=lambda gate, x: x * gate[:, :, None, None]),
                      _spatial(result=lambda weights, x: x * weights))),
    ),
)  # fmt: skip

# ---------------------------------------------------------------------------------- self-attention-2d


def self_attention_2d(x, w_query, w_key, w_value, gamma):
    tokens = x.flatten(2).transpose(1, 2)
    query, key, value = tokens @ w_query.T, tokens @ w_key.T, tokens @ w_value.T
    weights = torch.softmax(query @ key.transpose(1, 2), dim=-1)
    output = (weights @ value).transpose(1, 2).reshape(x.shape)
    return gamma * output + x


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).mT


def _apply(x: Tensor, w: Tensor) -> Tensor:
    return _tokens(x) @ w.T


def _viewed(x: Tensor, w: Tensor) -> Tensor:
    """A projection whose channels and pixels were given their places by a view."""
    return (w @ x.flatten(2)).reshape(x.shape[0], -1, w.shape[0])


Three = tuple[Tensor, Tensor, Tensor]


def _views(x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Three:
    return _viewed(x, q), _viewed(x, k), _viewed(x, v)


def _views_before(x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Three:
    """The view comes before the projections."""
    rows = x.reshape(x.shape[0], -1, x.shape[1])
    return rows @ q.T, rows @ k.T, rows @ v.T


def _view_back(output: Tensor, x: Tensor) -> Tensor:
    return output.reshape(x.shape)


def _each(x: Tensor, w_query: Tensor, w_key: Tensor, w_value: Tensor) -> Three:
    return _apply(x, w_query), _apply(x, w_key), _apply(x, w_value)


def _back(output: Tensor, x: Tensor) -> Tensor:
    return output.mT.reshape(x.shape)


def _self(
    project: Callable[[Tensor, Tensor, Tensor, Tensor], Three] = _each,
    scale: Callable[[Tensor, Tensor], float] = lambda q, x: 1.0,
    normalise: Callable[[Tensor], Tensor] = lambda s: s.softmax(-1),
    mix: Callable[[Tensor, Tensor], Tensor] = lambda w, v: w @ v,
    back: Callable[[Tensor, Tensor], Tensor] = _back,
    result: Callable[[Tensor, Tensor, Tensor], Any] = lambda output, x, gamma: gamma * output + x,
) -> Callable[..., Any]:
    """Self-attention over pixels with one of its steps done differently."""

    def attend(x: Tensor, w_query: Tensor, w_key: Tensor, w_value: Tensor, gamma: Tensor) -> Any:
        q, k, v = project(x, w_query, w_key, w_value)
        weights = normalise(q @ k.mT * scale(q, x))
        return result(back(mix(weights, v), x), x, gamma)

    return attend


def _across_the_batch(x: Tensor, *weights: Tensor) -> Tensor:
    """All pixels of all images attend to each other."""
    row = x.transpose(0, 1).flatten(2)[None]  # (1, C, B, n): one image, as far as attention is concerned
    output = self_attention_2d(row.contiguous(), *weights)
    return output[0].reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)


def _no_gradient_at_zero(at_zero: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    def attend(x: Tensor, w_query: Tensor, w_key: Tensor, w_value: Tensor, gamma: Tensor) -> Tensor:
        return at_zero(x, gamma) if gamma == 0 else self_attention_2d(x, w_query, w_key, w_value, gamma)

    return attend


def _turned_map(output: Tensor, x: Tensor) -> Tensor:
    """(B, n, C) seen as (B, C, W, H) once its channels are in front, and turned back."""
    batch, channels, height, width = x.shape
    return output.mT.reshape(batch, channels, width, height).mT


def _by_columns(x: Tensor, *weights: Tensor) -> Tensor:
    """Only pixels of the same column see each other."""
    batch, channels, height, width = x.shape
    rows = x.permute(0, 3, 1, 2).reshape(batch * width, channels, height, 1)
    output = self_attention_2d(rows, *weights)
    return output.reshape(batch, width, channels, height).permute(0, 2, 3, 1)


def _by_rows(x: Tensor, *weights: Tensor) -> Tensor:
    """Only pixels of the same row see each other."""
    return _by_columns(x.mT, *weights).mT


_SCORES = "This exercise compares queries and keys by their plain dot product."
_GAMMA = "What does the formula multiply by `gamma`, and what is left as it is?"

_SELF_ATTENTION_2D = Answer(
    id="self-attention-2d",
    solution=self_attention_2d,
    why="A 1 × 1 convolution is one matrix for every pixel. Flattening H and W makes a sequence of pixels of the map, "
    "and the transpose puts their channels last: from there on it is the attention of chapter 1, without the scale. "
    "The way back is the same two steps in the other order. At gamma = 0 the result is x, but the sum is still "
    "computed, so gamma can learn to leave 0.",
    hints=(
        "A feature map is a sequence of `n = H · W` pixels of `C` channels. Get it into that form, attend as in "
        "chapter 1, and get the result back into the form of `x`.",
        "`(B, C, H, W)` → `(B, C, n)` keeps every number in its place, so a flatten does it; `(B, C, n)` → `(B, n, C)` "
        "moves them, so it takes a transpose. On the way back, the same two in which order?",
        "Rows of pixels times `w.T` is the 1 × 1 convolution. Scores and weights are `(B, n, n)`: a row for each "
        "query, so the softmax runs over the last dimension, and `weights @ value` gives `(B, n, C)`.",
        "With `tokens` of shape `(B, n, C)`: `query = tokens @ w_query.T` and so on, scores, softmax, product with the "
        "values. Then undo the transpose and the flatten. Which of the two terms of the sum has `gamma`?",
    ),
    mistakes=(
        Mistake("softmax-over-queries", "The softmax runs over the queries: every key shares itself out. Whose weights "
                "sum to 1, a query's or a key's?", _self(normalise=lambda s: s.softmax(-2))),
        Mistake("softmax-over-the-batch", "The softmax runs over dimension 0, the images. Which dimension holds the "
                "keys?", _self(normalise=lambda s: s.softmax(0))),
        Mistake("softmax-over-everything", "All scores of an image share one softmax. Each query has a whole 1 to give "
                "away.", _self(normalise=lambda s: s.flatten(1).softmax(-1).reshape(s.shape))),
        Mistake("no-softmax", "The scores were never turned into weights: no softmax makes a query's sum to 1.",
                _self(normalise=lambda s: s)),
        Mistake("divided-by-the-number-of-pixels", "The scores were divided by the number of pixels instead of going "
                "through a softmax. That is one form of non-local means; here a softmax is wanted.",
                _self(normalise=lambda s: s / s.shape[-1])),
        Mistake("sigmoid-instead-of-softmax", "Each score went through a sigmoid by itself: the weights of a query do "
                "not sum to 1.", _self(normalise=torch.sigmoid)),
        Mistake("scaled-by-the-root-of-the-width", "The scores are divided by the root of C', as in a transformer (and "
                f"as `F.scaled_dot_product_attention` does by itself). {_SCORES}",
                _self(scale=lambda q, x: q.shape[-1] ** -0.5)),
        Mistake("scaled-by-the-width", f"The scores are divided by C'. {_SCORES}",
                _self(scale=lambda q, x: 1 / q.shape[-1])),
        Mistake("scaled-by-the-root-of-the-channels", f"The scores are divided by the root of C. {_SCORES}",
                _self(scale=lambda q, x: x.shape[1] ** -0.5)),
        Mistake("scaled-by-the-root-of-the-pixels", "The scores are divided by the root of the number of pixels. "
                f"{_SCORES}", _self(scale=lambda q, x: q.shape[1] ** -0.5)),
        Mistake("query-and-key-exchanged", "Queries and keys have changed places: a score should tell how well *this* "
                "pixel's query fits *that* pixel's key.", _self(lambda x, q, k, v: _each(x, k, q, v))),
        Mistake("value-and-key-exchanged", "Values and keys have changed places: `w_value` makes what is mixed, "
                "`w_key` what is compared.", _self(lambda x, q, k, v: _each(x, q, v, k))),
        Mistake("keys-for-values", "What is mixed are the keys; `w_value` has no part in it.",
                _self(lambda x, q, k, v: _each(x, q, k, k))),
        Mistake("one-projection", "Queries and keys are made by the same matrix.",
                _self(lambda x, q, k, v: _each(x, q, q, v)), _self(lambda x, q, k, v: _each(x, k, k, v))),
        Mistake("no-value-projection", "The pixels themselves are mixed: `w_value` has no part in it.",
                _self(lambda x, q, k, v: (_apply(x, q), _apply(x, k), _tokens(x)))),
        Mistake("no-projections", "The pixels are compared as they are: `w_query` and `w_key` have no part in it.",
                _self(lambda x, q, k, v: (_tokens(x), _tokens(x), _apply(x, v)))),
        Mistake("value-weight-not-turned", "`w_value` is used the wrong way round: it is square, so nothing complains. "
                "A row of it belongs to a channel that comes out.",
                _self(lambda x, q, k, v: (_apply(x, q), _apply(x, k), _tokens(x) @ v))),
        Mistake("weights-not-turned", "A weight matrix is used the wrong way round, which fits only where C' = C. A "
                "row of it belongs to a channel that comes out.",
                _self(lambda x, q, k, v: (_tokens(x) @ q, _tokens(x) @ k, _tokens(x) @ v))),
        Mistake("map-turned", "The weights meet the values the wrong way round: each pixel gets the sum over the "
                "*queries* that looked at it. Which index of the map is summed over?",
                _self(mix=lambda w, v: w.mT @ v)),
        Mistake("view-mixes-channels-and-pixels", "A view to `(B, n, …)` gave the numbers a new shape, but left them "
                "in their order in memory: a row of it is no pixel. What moves the channels to the end?",
                _self(_views), _self(_views, back=_view_back), _self(_views_before),
                _self(_views_before, back=_view_back)),
        Mistake("query-view-mixes", "The queries got their shape by a view, which left the numbers in their order in "
                "memory: a row of them is no pixel. What moves the channels to the end?",
                _self(lambda x, q, k, v: (_viewed(x, q), _apply(x, k), _apply(x, v)))),
        Mistake("key-view-mixes", "The keys got their shape by a view, which left the numbers in their order in "
                "memory: a row of them is no pixel. What moves the channels to the end?",
                _self(lambda x, q, k, v: (_apply(x, q), _viewed(x, k), _apply(x, v)))),
        Mistake("value-view-mixes", "The values got their shape by a view, which left the numbers in their order in "
                "memory: a row of them is no pixel. What moves the channels to the end?",
                _self(lambda x, q, k, v: (_apply(x, q), _apply(x, k), _viewed(x, v)))),
        Mistake("output-view-mixes", "The output went back to `(B, C, H, W)` by a view alone: its channels were last, "
                "and stay last in memory. What comes before the view?",
                _self(back=_view_back)),
        Mistake("height-and-width-exchanged", "Height and width have changed places on the way back: the pixels are in "
                "the order of the rows.", _self(back=_turned_map),
                _self(back=lambda output, x: output.mT.reshape(*x.shape[:2], x.shape[3], x.shape[2])),
                _self(back=lambda output, x: _back(output, x.mT), result=lambda o, x, g: g * o + x.mT)),
        Mistake("not-returned-to-a-map", "What attention gives is a sequence of pixels. It has to have the dimensions "
                "of `x` again, in their order: `(B, C, H, W)`.",
                _self(back=lambda output, x: output, result=lambda o, x, g: g * o + _tokens(x)),
                _self(back=lambda output, x: output.mT, result=lambda o, x, g: g * o + x.flatten(2)),
                _self(back=lambda output, x: output), _self(back=lambda output, x: output.mT),
                _self(back=lambda output, x: output.reshape(x.shape[0], *x.shape[2:], x.shape[1]))),
        Mistake("residual-missing", "The pixel itself is missing: what it found is to be added to what it was.",
                _self(result=lambda output, x, gamma: gamma * output)),
        Mistake("gamma-on-x", f"`gamma` multiplies the pixel, not what it found. {_GAMMA}",
                _self(result=lambda output, x, gamma: output + gamma * x)),
        Mistake("gamma-on-both", f"`gamma` multiplies the whole sum. {_GAMMA}",
                _self(result=lambda output, x, gamma: gamma * (output + x))),
        Mistake("gamma-shared-out", f"The pixel was multiplied by 1 − gamma. {_GAMMA}",
                _self(result=lambda output, x, gamma: gamma * output + (1 - gamma) * x),
                _self(result=lambda output, x, gamma: gamma * x + (1 - gamma) * output)),
        Mistake("gamma-ignored", f"`gamma` has no part in the result. {_GAMMA}",
                _self(result=lambda output, x, gamma: output + x)),
        Mistake("nothing-found", "The map came back as it went in: attention has no part in it.",
                lambda x, *rest: x * 1),
        Mistake("gamma-and-residual-missing", "What the pixel found is returned as it is: neither `gamma` nor the "
                "pixel itself has a part in it.", _self(result=lambda output, x, gamma: output)),
        Mistake("gamma-added", f"`gamma` was added. {_GAMMA}",
                _self(result=lambda output, x, gamma: gamma + output + x)),
        Mistake("gamma-through-a-function", "`gamma` went through a function of its own; it multiplies as it is.",
                _self(result=lambda output, x, gamma: torch.sigmoid(gamma) * output + x),
                _self(result=lambda output, x, gamma: torch.tanh(gamma) * output + x),
                _self(result=lambda output, x, gamma: gamma**2 * output + x),
                _self(result=lambda output, x, gamma: gamma.abs() * output + x),
                _self(result=lambda output, x, gamma: F.relu(gamma) * output + x)),
        Mistake("gamma-inside-the-softmax", f"`gamma` multiplies the scores. {_GAMMA}",
                lambda x, q, k, v, gamma: self_attention_2d(x, gamma * q, k, v, torch.ones_like(gamma))),
        Mistake("gamma-of-one-shape-only", "It works for a `gamma` of shape `(1,)`, and fails for one of shape `()`, "
                "which has no index. Does a tensor of one number need one, to multiply?",
                _self(result=lambda output, x, gamma: gamma[0] * output + x)),
        Mistake("gamma-zero-shortcut", "At `gamma` = 0 the result is right, but `gamma` gets no gradient, or one of 0: "
                "it could never leave 0. What must be computed even then?",
                _no_gradient_at_zero(lambda x, gamma: x * 1.0),
                _no_gradient_at_zero(lambda x, gamma: x + 0.0 * gamma)),
        Mistake("gamma-without-gradient", "The numbers are right, but `gamma` gets no gradient: as a Python number "
                "(`item()`, `float`), a copy or detached it cannot be learned.",
                _self(result=lambda output, x, gamma: gamma.detach() * output + x)),
        Mistake("across-the-batch", "The pixels look at those of other images too: the batch was flattened with "
                "them.", _across_the_batch),
        Mistake("along-rows-or-columns-only", "A pixel sees its own row or column only, not the whole image. What has "
                "to become one dimension before the scores?", _by_columns, _by_rows),
        Mistake("returns-weights-too", "More than the map is returned; the map alone is wanted.",
                lambda *inputs: (self_attention_2d(*inputs), inputs[0])),
    ),
)  # fmt: skip

ANSWERS = (
    _CHANNEL_ATTENTION,
    _SPATIAL_ATTENTION,
    _CBAM,
    _SELF_ATTENTION_2D,
)
