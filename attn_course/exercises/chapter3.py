"""Chapter 3, what may stand beside a learner's code: prompts, stubs and cases."""

from collections.abc import Callable
from typing import Any

import torch

from .task import Case, Inputs, Task

# ------------------------------------------------------------------------------------------- making inputs


def _draw(g: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=g)


def _asking(*names: str) -> Callable[[Any, Inputs, dict[str, torch.Tensor]], Any]:
    """A call that looks at the gradients of ``names`` alone.

    The weights may be copied into a learner's own ``nn.Conv2d`` or ``nn.Linear``, where no gradient comes back.
    """

    def act(candidate: Any, inputs: Inputs, leaves: dict[str, torch.Tensor]) -> Any:
        for name in set(leaves) - set(names):
            leaves.pop(name).requires_grad_(False)
        return candidate(*inputs.values())

    return act


# ----------------------------------------------------------------------------------- channel-attention

# Small numbers, and sizes that agree: a product that does not fit would raise, and show less than a wrong number.
_X = torch.tensor([[[[1.0, 3.0]], [[-2.0, 2.0]]]])
_W1 = torch.tensor([[1.0, 1.0], [0.5, -1.0]])
_W2 = torch.tensor([[0.2, 0.4], [-0.1, 0.3]])
_SQUARE = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[-4.0, 0.0], [1.0, -1.0]]]])


def _mlp(g: torch.Generator, channels: int, hidden: int) -> Inputs:
    """The two weights: a hidden number is of size 2 and as often below 0 as above, a result of size 1."""
    return {
        "w1": 2 * _draw(g, hidden, channels) / channels**0.5,
        "w2": _draw(g, channels, hidden) / (2 * hidden) ** 0.5,
    }


def _tiny_channels(g: torch.Generator) -> Inputs:
    return {"x": _X.clone(), "w1": _W1.clone(), "w2": _W2.clone()}


def _one_hidden(g: torch.Generator) -> Inputs:
    """Its hidden number is below 0 for the averages."""
    return {"x": _SQUARE.clone(), "w1": torch.tensor([[0.25, 1.0]]), "w2": torch.tensor([[0.4], [-0.2]])}


def _channels(
    batch: int, channels: int, height: int, width: int, hidden: int, shift: float = 0.0
) -> Callable[[torch.Generator], Inputs]:
    def make(g: torch.Generator) -> Inputs:
        return {"x": _draw(g, batch, channels, height, width) + shift, **_mlp(g, channels, hidden)}

    return make


_CHANNEL_ATTENTION = Task(
    id="channel-attention",
    chapter=3,
    title="Which channels matter",
    prompt="""\
Write `channel_attention(x, w1, w2)`: one number between 0 and 1 for each channel of each image, which says how much of
that channel is let through.

Summarise a channel twice: by the average of its pixels, and by the largest of them. So each image has two vectors of
`C` numbers. Each goes, by itself, through the same small network: `w1`, a ReLU, `w2`. Add the two results; the sigmoid
of the sum is the answer.

- `x` is `(B, C, H, W)`.
- `w1` is `(C/r, C)` and `w2` is `(C, C/r)`, for some reduction `r`: a row for each number that comes out, as in
  `nn.Linear`. There is no bias.
- Return the weights, `(B, C, 1, 1)`: only them, not `x` times them.
""",
    stub='''\
def channel_attention(x, w1, w2):
    """One weight between 0 and 1 for each channel of each image.

    x (B, C, H, W), w1 (C/r, C), w2 (C, C/r)
    returns weights (B, C, 1, 1)
    """
    ...  # your code here
''',
    returns=("weights",),
    cases=(
        Case("tiny", _tiny_channels),
        Case("tiny, one hidden number", _one_hidden),
        Case("one channel", _channels(2, 1, 3, 5, 1), terms=32),
        Case("different sizes", _channels(2, 14, 3, 5, 7), terms=32, twice=True),
        Case("C/r = 1", _channels(3, 7, 5, 2, 1), terms=32),
        Case("r = 1", _channels(2, 5, 3, 7, 5), terms=32),
        Case("one image of one pixel", _channels(1, 6, 1, 1, 3), terms=32),
        Case("one row of pixels", _channels(3, 10, 1, 7, 2), terms=32),
        Case("every number below 0", _channels(2, 6, 5, 3, 2, shift=-6.0), terms=64),
        Case("as many pixels as channels", _channels(3, 6, 2, 3, 2), terms=32),
        Case("all sizes 4", _channels(4, 4, 4, 4, 4), terms=32),
        Case("B = H = C/r, W = C", _channels(3, 6, 3, 6, 3), terms=32),
        Case("gradients", _channels(3, 10, 5, 3, 5), terms=64, gradients=True),
    ),
    act=_asking("x"),
)

# ----------------------------------------------------------------------------------- spatial-attention

_MAP = torch.tensor([[[[1.0, 0.0, 2.0], [0.0, 3.0, -1.0]], [[-1.0, 2.0, 0.0], [4.0, -3.0, -3.0]]]])
_KERNEL = torch.tensor(
    [[[[0.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.0, 0.0, 0.5]], [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 1.0, 0.0]]]]
) / 2  # fmt: skip


def _kernel(g: torch.Generator, k: int) -> torch.Tensor:
    """Two k × k kernels; the mean of a pixel's channels is a smaller number than their max."""
    return _draw(g, 1, 2, k, k) * torch.tensor([2.0, 1.0]).reshape(1, 2, 1, 1) / k


def _tiny_pixels(g: torch.Generator) -> Inputs:
    return {"x": _MAP.clone(), "weight": _KERNEL.clone()}


def _pixels(
    batch: int, channels: int, height: int, width: int, k: int, shift: float = 0.0
) -> Callable[[torch.Generator], Inputs]:
    def make(g: torch.Generator) -> Inputs:
        return {"x": _draw(g, batch, channels, height, width) + shift, "weight": _kernel(g, k)}

    return make


_SPATIAL_ATTENTION = Task(
    id="spatial-attention",
    chapter=3,
    title="Which pixels matter",
    prompt="""\
Write `spatial_attention(x, weight)`: one number between 0 and 1 for each pixel of each image, which says how much of
that pixel is let through.

Summarise a pixel twice: by the average of its channels, and by the largest of them. That makes two maps, the averages
first. A convolution with `weight` makes one map of the two, so that a pixel is judged together with its neighbours; the
sigmoid of that map is the answer.

- `x` is `(B, C, H, W)`.
- `weight` is `(1, 2, k, k)`, with an odd `k`, as in `nn.Conv2d(2, 1, k)`. There is no bias.
- The padding is "same": zeros around the two maps, as many as it takes for the result to have their size. `k` may be
  larger than the map.
- Return the weights, `(B, 1, H, W)`: only them, not `x` times them.
""",
    stub='''\
def spatial_attention(x, weight):
    """One weight between 0 and 1 for each pixel of each image.

    x (B, C, H, W), weight (1, 2, k, k) with an odd k
    returns weights (B, 1, H, W)
    """
    ...  # your code here
''',
    returns=("weights",),
    cases=(
        Case("tiny", _tiny_pixels),
        Case("k = 1", _pixels(2, 5, 3, 7, 1), terms=16),
        Case("k = 3", _pixels(2, 5, 11, 7, 3), terms=32, twice=True),
        Case("k = 5", _pixels(3, 2, 5, 7, 5), terms=64),
        Case("k = 7", _pixels(2, 3, 11, 13, 7), terms=112),
        Case("map smaller than the kernel", _pixels(2, 5, 3, 2, 7), terms=112),
        Case("one image of one pixel", _pixels(1, 3, 1, 1, 3), terms=32),
        Case("one column of pixels", _pixels(2, 3, 5, 1, 3), terms=32),
        Case("one channel", _pixels(2, 1, 5, 3, 3), terms=32),
        Case("two channels", _pixels(3, 2, 5, 7, 3), terms=32),
        Case("every number below 0", _pixels(2, 5, 3, 7, 3, shift=-2.0), terms=64),
        Case("all sizes 4", _pixels(4, 4, 4, 4, 3), terms=32),
        Case("gradients", _pixels(2, 3, 5, 7, 3), terms=64, gradients=True),
    ),
    act=_asking("x"),
)

# ------------------------------------------------------------------------------------------------ cbam


def _tiny_cbam(g: torch.Generator) -> Inputs:
    return {"x": _SQUARE.clone() / 2, "w1": _W1.clone(), "w2": _W2.clone(), "weight": _KERNEL.clone()}


def _refined(
    batch: int, channels: int, height: int, width: int, hidden: int, k: int, shift: float = 0.0
) -> Callable[[torch.Generator], Inputs]:
    def make(g: torch.Generator) -> Inputs:
        x = _draw(g, batch, channels, height, width) + shift
        return {"x": x, **_mlp(g, channels, hidden), "weight": 2 * _kernel(g, k)}

    return make


_CBAM = Task(
    id="cbam",
    chapter=3,
    title="Channels first, then pixels",
    prompt="""\
Write `cbam(x, w1, w2, weight)`, the whole module: first channel attention, then spatial attention.

Each step multiplies the map that it is given by weights that are worked out from *that* map. So spatial attention does
not look at `x`: it looks at the map that channel attention has refined, and that map is what it multiplies.

- `x` is `(B, C, H, W)`.
- `w1` `(C/r, C)` and `w2` `(C, C/r)` are the weights of `channel_attention(x, w1, w2)`; `weight` `(1, 2, k, k)` is that
  of `spatial_attention(x, weight)`. You may call your two functions: each returns weights between 0 and 1, not a map.
- Return the map, `(B, C, H, W)`. Nothing is added to it.
""",
    stub='''\
def cbam(x, w1, w2, weight):
    """Channel attention, then spatial attention of the refined map.

    x (B, C, H, W), w1 (C/r, C), w2 (C, C/r), weight (1, 2, k, k) with an odd k
    returns the map (B, C, H, W)
    """
    ...  # your code here
''',
    returns=("output",),
    cases=(
        Case("tiny", _tiny_cbam),
        Case("different sizes", _refined(2, 14, 5, 11, 7, 3), terms=64, twice=True),
        Case("k = 1", _refined(3, 10, 2, 7, 5, 1), terms=32),
        Case("k = 7", _refined(2, 6, 11, 13, 3, 7), terms=112),
        Case("map smaller than the kernel", _refined(2, 6, 5, 3, 3, 7), terms=112),
        Case("C/r = 1", _refined(2, 5, 3, 7, 1, 3), terms=64),
        Case("one channel", _refined(2, 1, 3, 5, 1, 3), terms=64),
        Case("one image of one pixel", _refined(1, 6, 1, 1, 2, 3), terms=64),
        Case("every number below 0", _refined(2, 6, 5, 3, 2, 3, shift=-3.0), terms=64),
        Case("all sizes 4", _refined(4, 4, 4, 4, 4, 3), terms=64),
        Case("gradients", _refined(3, 10, 5, 3, 5, 3), terms=128, gradients=True),
    ),
    act=_asking("x"),
)

# ---------------------------------------------------------------------------------- self-attention-2d


def _tiny_self(g: torch.Generator) -> Inputs:
    return {
        "x": torch.tensor([[[[1.0, 0.0, 2.0]], [[0.0, 1.0, -1.0]]]]),
        "w_query": torch.tensor([[1.0, 0.0], [1.0, 1.0]]),
        "w_key": torch.tensor([[1.0, -1.0], [0.0, 1.0]]),
        "w_value": torch.tensor([[1.0, 2.0], [0.0, -1.0]]),
        "gamma": torch.tensor(0.5),
    }


def _self(
    batch: int, channels: int, height: int, width: int, narrow: int, gamma: float = 0.7, shape: tuple[int, ...] = ()
) -> Callable[[torch.Generator], Inputs]:  # fmt: skip
    """``narrow`` is the C' of queries and keys.

    Scores are of size 2, whatever the sizes, and no draw is larger than 2: a softmax that does not take the maximum
    away is right too, and must not overflow.
    """

    def make(g: torch.Generator) -> Inputs:
        gain = (2 / narrow**0.5) ** 0.5 / channels**0.5
        return {
            "x": _draw(g, batch, channels, height, width).clamp(-2, 2),
            "w_query": gain * _draw(g, narrow, channels).clamp(-2, 2),
            "w_key": gain * _draw(g, narrow, channels).clamp(-2, 2),
            "w_value": 2 * _draw(g, channels, channels) / channels**0.5,
            "gamma": torch.full(shape, gamma),
        }

    return make


_SELF_ATTENTION_2D = Task(
    id="self-attention-2d",
    chapter=3,
    title="Every pixel asks every pixel",
    prompt="""\
Write `self_attention_2d(x, w_query, w_key, w_value, gamma)`: each pixel looks at all pixels of its image, itself
included, and adds what it found to what it was.

A pixel is a vector of `C` numbers. The three matrices make its query, its key and its value of it, as a 1 × 1
convolution does. A score is the dot product of a query and a key, *not scaled*. A softmax over the keys turns the
scores of a query into weights, and the output of that pixel is the sum of the values, each times its weight.

- `x` is `(B, C, H, W)`; `H` and `W` may differ.
- `w_query` and `w_key` are `(C', C)`, `w_value` is `(C, C)`: a row for each channel that comes out. There is no bias.
  `C'` may be any number.
- `gamma` is a tensor that holds one number, of shape `()` or `(1,)`. It is learned, and starts at 0: a gradient has to
  reach it there too.
- Return `gamma · output + x`, of shape `(B, C, H, W)`.
""",
    stub='''\
def self_attention_2d(x, w_query, w_key, w_value, gamma):
    """Let every pixel attend to every pixel of its image; add the outcome to the pixel.

    x (B, C, H, W), w_query and w_key (C', C), w_value (C, C), gamma () or (1,)
    returns gamma * output + x, (B, C, H, W)
    """
    ...  # your code here
''',
    returns=("output",),
    cases=(
        Case("tiny", _tiny_self),
        Case("different sizes", _self(2, 7, 3, 5, 4), terms=64, twice=True),
        Case("tall map", _self(2, 5, 7, 2, 3, 1.3), terms=64),
        Case("square map", _self(2, 5, 3, 3, 2), terms=64),
        Case("gamma of shape (1,)", _self(3, 5, 2, 3, 2, 0.9, (1,)), terms=64),
        Case("gamma below 0", _self(2, 3, 2, 5, 4, -0.6), terms=64),
        Case("gamma = 1", _self(2, 3, 5, 2, 2, 1.0, (1,)), terms=64),
        Case("C' = C // 8", _self(2, 16, 3, 5, 2), terms=64),
        Case("C' = 1", _self(1, 5, 3, 7, 1), terms=64),
        Case("C' = C", _self(2, 6, 5, 3, 6), terms=64),
        Case("one image of one pixel", _self(1, 3, 1, 1, 2), terms=32),
        Case("one channel", _self(2, 1, 3, 5, 1), terms=32),
        Case("as many pixels as channels", _self(3, 6, 2, 3, 2), terms=64),
        Case("B = C = H · W = C'", _self(4, 4, 2, 2, 4), terms=64),
        Case("all sizes 4", _self(4, 4, 4, 4, 4), terms=64),
        Case("gamma = 0", _self(2, 3, 2, 5, 2, 0.0, (1,)), terms=64, gradients=True),
        Case("gradients", _self(2, 5, 3, 2, 3), terms=96, gradients=True),
    ),
    act=_asking("x", "gamma"),
)

TASKS = (
    _CHANNEL_ATTENTION,
    _SPATIAL_ATTENTION,
    _CBAM,
    _SELF_ATTENTION_2D,
)
