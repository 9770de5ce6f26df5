"""Chapter 7, what may stand beside a learner's code: prompts, stubs and cases."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .runner import by_position
from .task import Case, Inputs, Task

# ------------------------------------------------------------------------------------------- making inputs


def _draw(g: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=g).clamp(-2.5, 2.5)


def _numbered(*shape: int) -> torch.Tensor:
    """0, 1, 2, …: every element tells where it came from."""
    total = int(torch.tensor(shape).prod())
    return torch.arange(total, dtype=torch.float32).reshape(shape)


# ------------------------------------------------------------------------------------------- to-tokens


def _map(batch: int, channels: int, height: int, width: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {"x": _numbered(batch, channels, height, width)}


_TO_TOKENS = Task(
    id="to-tokens",
    chapter=7,
    title="A feature map, read like a page",
    prompt="""\
Write `to_tokens(x)`: make of a feature map the sequence of tokens that a transformer reads.

A feature map has `H × W` places, and at each of them `C` numbers, one from each channel. Each place becomes one token:
the vector of the `C` numbers that stand there. The tokens come in the order in which a page is read: the first row from
left to right, then the second row, and so on.

- `x` is `(B, C, H, W)`; `H` and `W` may differ.
- Return `(B, H · W, C)`: token number `i · W + j` of image `b` is `x[b, :, i, j]`.
""",
    stub='''\
def to_tokens(x):
    """The places of a feature map, row by row, as tokens.

    x (B, C, H, W)
    returns (B, H * W, C): token i * W + j is x[:, :, i, j]
    """
    ...  # your code here
''',
    returns=("tokens",),
    cases=(
        Case("two channels, two rows", _map(1, 2, 2, 3), terms=1),
        Case("two images", _map(2, 2, 2, 3), terms=1),
        Case("one channel", _map(2, 1, 3, 5), terms=1),
        Case("one row", _map(2, 3, 1, 5), terms=1),
        Case("one column", _map(2, 3, 5, 1), terms=1),
        Case("one image of one pixel", _map(1, 3, 1, 1), terms=1),
        Case("different sizes", _map(2, 5, 3, 7), terms=1, twice=True),
        Case("taller than wide", _map(3, 2, 7, 5), terms=1),
        Case("square", _map(2, 3, 4, 4), terms=1),
        Case("as many places as channels", _map(3, 6, 2, 3), terms=1),
        Case("as many channels as columns", _map(2, 5, 3, 5), terms=1),
        Case("all sizes 3", _map(3, 3, 3, 3), terms=1),
        Case("gradients", _map(2, 3, 2, 5), terms=1, gradients=True),
    ),
)

# -------------------------------------------------------------------------------------- to-feature-map


def _tokens(batch: int, channels: int, height: int, width: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {
        "tokens": _numbered(batch, height * width, channels),
        "height": height,
        "width": width,
    }


_TO_FEATURE_MAP = Task(
    id="to-feature-map",
    chapter=7,
    title="Back into a map",
    prompt="""\
Write `to_feature_map(tokens, height, width)`: undo `to_tokens`, so that convolutions can go on where a transformer has
ended.

Each token goes back to its place: the first `W` tokens fill the first row from left to right, the next `W` the second
row, and so on. The `C` numbers of a token are spread over the `C` channels. A sequence of 12 tokens may have been a map
of 2 × 6, 3 × 4 or 6 × 2: the sequence itself does not say, and so `height` and `width` are given.

- `tokens` is `(B, H · W, C)`, with `H` = `height` rows and `W` = `width` columns, which may differ.
- Return `(B, C, H, W)`: what `to_tokens` turns into `tokens` again.
""",
    stub='''\
def to_feature_map(tokens, height, width):
    """Put tokens back at their places: the inverse of to_tokens.

    tokens (B, height * width, C), row by row
    returns (B, C, height, width)
    """
    ...  # your code here
''',
    returns=("x",),
    cases=(
        Case("two channels, two rows", _tokens(1, 2, 2, 3), terms=1),
        Case("two images", _tokens(2, 2, 2, 3), terms=1),
        Case("one channel", _tokens(2, 1, 3, 5), terms=1),
        Case("one row", _tokens(2, 3, 1, 5), terms=1),
        Case("one column", _tokens(2, 3, 5, 1), terms=1),
        Case("one token", _tokens(1, 3, 1, 1), terms=1),
        Case("different sizes", _tokens(2, 5, 3, 7), terms=1, twice=True),
        Case("taller than wide", _tokens(3, 2, 7, 5), terms=1),
        Case("square", _tokens(2, 3, 4, 4), terms=1),
        Case("as many tokens as a square has", _tokens(2, 3, 2, 8), terms=1),
        Case("as many places as channels", _tokens(3, 6, 2, 3), terms=1),
        Case("as many channels as columns", _tokens(2, 5, 3, 5), terms=1),
        Case("all sizes 3", _tokens(3, 3, 3, 3), terms=1),
        Case("gradients", _tokens(2, 3, 2, 5), terms=1, gradients=True),
    ),
)

# -------------------------------------------------------------------------------------------- patchify


def _image(
    batch: int, channels: int, height: int, width: int, patch: int
) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {"x": _numbered(batch, channels, height, width), "patch": patch}


def _cut(candidate: Any, inputs: Inputs, leaves: dict[str, torch.Tensor]) -> Any:
    """The call; a failed ``assert`` keeps its line and loses its text, which each learner words otherwise."""
    try:
        return by_position(candidate, inputs, ())
    except AssertionError as error:
        error.args = ()
        raise


_PATCHIFY = Task(
    id="patchify",
    chapter=7,
    title="An image in pieces",
    prompt="""\
Write `patchify(x, patch)`: cut images into square patches and make one token of each. A vision transformer begins so:
it has no convolutions that would make a feature map first.

An image is cut into squares of `p × p` pixels (`p` = `patch`), which do not overlap: `H / p` of them below one another,
`W / p` side by side. The patches are read like a page: the first row of patches from left to right, then the second
row, and so on. A token holds all `C · p · p` numbers of its patch: the first channel of the patch, row by row, then its
second channel, and so on.

- `x` is `(B, C, H, W)`; `H` and `W` may differ. `patch` is an integer of at least 1.
- Return `(B, H/p · W/p, C · p · p)`. Token number `i · W/p + j` is the patch `x[b, :, i·p : (i+1)·p, j·p : (j+1)·p]`,
  flattened.
- Raise a `ValueError` if `p` does not divide both `H` and `W`, rather than lose pixels at the edge without a word.
  (`raise ValueError("…")`, and the text may say which numbers do not fit.)
""",
    stub='''\
def patchify(x, patch):
    """Square patches of an image, row by row, as tokens.

    x (B, C, H, W), p = patch
    returns (B, H/p * W/p, C * p * p), each patch flattened from (C, p, p)
    raises ValueError if p does not divide both H and W
    """
    ...  # your code here
''',
    returns=("tokens",),
    cases=(
        Case("one channel, six patches", _image(1, 1, 4, 6, 2), terms=1),
        Case("two channels, two patches", _image(1, 2, 2, 4, 2), terms=1),
        Case("two images", _image(2, 1, 4, 4, 2), terms=1),
        Case("patches of one pixel", _image(2, 3, 2, 5, 1), terms=1),
        Case("the whole image is one patch", _image(2, 3, 5, 5, 5), terms=1),
        Case("one row of patches", _image(2, 3, 3, 15, 3), terms=1),
        Case("one column of patches", _image(2, 3, 15, 3, 3), terms=1),
        Case("different sizes", _image(2, 5, 6, 21, 3), terms=1, twice=True),
        Case("taller than wide", _image(3, 2, 14, 4, 2), terms=1),
        Case("square", _image(2, 3, 8, 8, 4), terms=1),
        Case("as many patches below as in a patch", _image(2, 2, 9, 6, 3), terms=1),
        Case("as many patches as numbers in one", _image(2, 1, 9, 9, 3), terms=1),
        Case("all sizes 4", _image(4, 4, 4, 4, 2), terms=1),
        Case("gradients", _image(2, 3, 4, 6, 2), terms=1, gradients=True),
        Case("height not divided", _image(1, 2, 5, 6, 3)),
        Case("width not divided", _image(1, 2, 6, 5, 3)),
        Case("neither side divided", _image(2, 1, 5, 7, 3)),
        Case("square, not divided", _image(1, 3, 7, 7, 2)),
        Case("only the area divided", _image(1, 2, 6, 10, 4)),
        Case("as many pixels as a patch", _image(1, 2, 2, 8, 4)),
    ),
    act=_cut,
)

# -------------------------------------------------------------------------------------- hybrid-forward


class _Known(nn.Module):
    """A part of a model that is not copied with its list: the same part is the same."""

    def __deepcopy__(self, memo: Any) -> "_Known":
        return self


class _By(_Known):
    """Arithmetic that a reader can follow: ``factor · x + term``."""

    def __init__(self, factor: float, term: float) -> None:
        super().__init__()
        self.factor, self.term = factor, term
        self.formula = f"{factor:g} · x" + (f" + {term:g}" if term else "")  # shown to the learner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x + self.term


class _Square(_Known):
    formula = "x²"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x**2


class _Backbone(_Known):
    """Stands for the convolutions: a map of other channels and fewer places, each image by itself."""

    def __init__(self, g: torch.Generator, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(_draw(g, channels, before, stride, stride) / (before**0.5 * stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(2 * torch.tanh(x), self.weight, stride=self.stride)


class _Summing(_Known):
    """A block: each token and all before it, added up."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n = x.shape[-2]
        return x.cumsum(-2), torch.ones(n, n).tril().expand(*x.shape[:-2], 1, n, n)


class _Scaling(_Known):
    """A block: each token by itself."""

    def __init__(self, factor: float, term: float) -> None:
        super().__init__()
        self.factor, self.term = factor, term

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mul(self.factor) + self.term, torch.eye(x.shape[-2]).expand(*x.shape[:-2], 1, -1, -1)


class _Block(_Known):
    """Stands for a transformer block: tokens change by what stands before them and by all others."""

    def __init__(self, g: torch.Generator, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(1.5 * _draw(g, channels, channels) / channels**0.5)
        self.bias = nn.Parameter(_draw(g, channels) / 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        n = x.shape[-2]
        steps = torch.arange(1, n + 1, dtype=x.dtype).sqrt()[:, None]
        y = x + torch.tanh(x.cumsum(-2) / steps @ self.weight + self.bias)
        if not self.heads:
            return y, None
        scores = y @ x.transpose(-2, -1) / x.shape[-1] ** 0.5
        return y, torch.softmax(scores, -1).unsqueeze(-3).expand(*x.shape[:-2], self.heads, n, n)


class _Head(_Known):
    """Not linear: to average and to classify are not the same in the other order."""

    def __init__(self, g: torch.Generator, channels: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_draw(g, channels, classes) / channels**0.5)
        self.bias = nn.Parameter(_draw(g, classes) / 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x @ self.weight + self.bias
        return y + y * y


def _tiny_hybrid(g: torch.Generator) -> Inputs:
    blocks = nn.ModuleList([_Summing(), _Scaling(2.0, 1.0)])
    blocks.formula = "a running sum over the tokens, then 2 · x + 1"  # type: ignore[assignment]
    return {
        "x": torch.tensor([[[[1.0, 0.0], [2.0, -1.0]], [[0.0, 1.0], [-2.0, 3.0]]]]),
        "backbone": _By(2.0, 1.0),
        "positions": torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [3.0, 0.0]]]),
        "blocks": blocks,
        "head": _Square(),
    }


def _hybrid(
    batch: int, channels: int, height: int, width: int, depth: int, classes: int,
    before: int = 3, stride: int = 2, heads: int = 2, kind: Callable[[list[_Block]], Iterable[Any]] = list,
) -> Callable[[torch.Generator], Inputs]:  # fmt: skip
    """``channels``, ``height`` and ``width`` of the feature map; ``kind`` of collection that holds the blocks."""

    def make(g: torch.Generator) -> Inputs:
        return {
            "x": _draw(g, batch, before, height * stride, width * stride),
            "backbone": _Backbone(g, before, channels, stride),
            "positions": _draw(g, 1, height * width, channels),
            "blocks": kind([_Block(g, channels, heads) for _ in range(depth)]),
            "head": _Head(g, channels, classes),
        }

    return make


def _sequential(blocks: list[_Block]) -> nn.Sequential:
    return nn.Sequential(*blocks)


_HYBRID_FORWARD = Task(
    id="hybrid-forward",
    chapter=7,
    title="From image to logits, through both",
    prompt="""\
Write `hybrid_forward(x, backbone, positions, blocks, head)`: the way of a batch of images through a hybrid model, whose
parts are given.

Convolutions make a feature map of the images. Each place of the map becomes a token, row by row. A transformer does not
know where a token stood, and so each gets the vector of its position added, once, before the first block. Then come the
blocks, one after the other. In the end there is one vector for each image, the mean of its tokens, and the head makes
the logits of that vector.

- `x` are the images; `backbone(x)` is the feature map, `(B, C, H, W)`.
- `positions` is `(1, H · W, C)`: a vector for each place, row by row, the same for all images.
- `blocks` holds one or more blocks, in a list, an `nn.ModuleList` or an `nn.Sequential`. Each is called with tokens
  `(B, H · W, C)` and returns a pair, `(tokens, weights)`: new tokens of the same shape, and attention weights that are
  not needed here.
- `head` turns `(B, C)` into the logits, `(B, number of classes)`. It need not be linear.
- Return the logits. You may call your `to_tokens`.
""",
    stub='''\
def hybrid_forward(x, backbone, positions, blocks, head):
    """Logits of images: convolutions, tokens, transformer blocks, mean, head.

    backbone(x): feature map (B, C, H, W); positions (1, H * W, C)
    blocks: each is called with (B, H * W, C) and returns (tokens, weights)
    head: (B, C) -> (B, number of classes)
    returns logits (B, number of classes)
    """
    ...  # your code here
''',
    returns=("logits",),
    cases=(
        Case("arithmetic", _tiny_hybrid),
        Case("one block", _hybrid(1, 2, 2, 3, 1, 2, stride=1), terms=64),
        Case("different sizes", _hybrid(2, 7, 3, 5, 2, 11), terms=128, twice=True),
        Case("three blocks in nn.Sequential", _hybrid(3, 5, 2, 7, 3, 4, kind=_sequential), terms=128),
        Case("blocks in nn.ModuleList", _hybrid(2, 5, 4, 2, 2, 3, kind=nn.ModuleList), terms=96),
        Case("one block in nn.Sequential", _hybrid(2, 3, 2, 5, 1, 7, kind=_sequential), terms=64),
        Case("blocks that return no weights", _hybrid(2, 5, 3, 2, 2, 3, heads=0), terms=96),
        Case("as many tokens as channels", _hybrid(2, 6, 2, 3, 2, 6, heads=1), terms=96),
        Case("one row", _hybrid(2, 3, 1, 5, 2, 4), terms=64),
        Case("one token", _hybrid(3, 5, 1, 1, 2, 2, stride=3), terms=64),
        Case("one class", _hybrid(3, 5, 2, 3, 2, 1), terms=96),
        Case("all sizes 4", _hybrid(4, 4, 2, 2, 4, 4, before=4, stride=1, heads=4), terms=96),
        Case("gradients", _hybrid(2, 3, 3, 2, 2, 5), terms=192, gradients=True),
    ),
)

TASKS = (
    _TO_TOKENS,
    _TO_FEATURE_MAP,
    _PATCHIFY,
    _HYBRID_FORWARD,
)
