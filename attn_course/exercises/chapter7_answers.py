"""Chapter 7, what must not stand beside a submission: solutions, hints and known wrong answers."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F

from .judge import Answer, Mistake

Tensor = torch.Tensor

# ------------------------------------------------------------------------------------------- to-tokens


def to_tokens(x):
    return x.flatten(2).transpose(1, 2)


def _joined(*dims: int) -> Callable[[Tensor], Tensor]:
    """Dimensions in another order, and the two in the middle joined."""
    return lambda x: x.permute(dims).flatten(1, 2)


def _filled(*dims: int) -> Callable[[Tensor], Tensor]:
    """Dimensions in another order, then a reshape straight to the shape that is wanted."""
    return lambda x: x.permute(dims).reshape(x.shape[0], x.shape[2] * x.shape[3], x.shape[1])


def _squeezed(x: Tensor) -> Tensor:
    return to_tokens(x).squeeze()


_READING = "A page is read row by row: which of row and column changes faster?"
_MOVES = (
    "A reshape keeps all numbers in their order in memory, and there a whole channel comes before the next."
)

_TO_TOKENS = Answer(
    id="to-tokens",
    solution=to_tokens,
    why="In memory a channel's map lies row by row, so joining H and W, which stand last, moves no number: (B, C, H · "
    "W), where each column is a place. The transpose makes rows of the columns. A reshape straight to the final shape "
    "has the right shape as well, but fills each token with neighbours of one channel.",
    hints=(
        "Take one image of 2 channels and 2 × 3 places, and write down its six tokens of two numbers each. Where in "
        "`x` do the two numbers of a token stand?",
        "Two steps: one joins the two dimensions of the places, the other brings the channels to the end. Which shape "
        "stands between them?",
        "`x.flatten(2)` is `(B, C, H · W)`: a row for each channel, a column for each place. Which two dimensions have "
        "still to change places?",
    ),
    mistakes=(
        Mistake("reshape-for-transpose", "The shape is right and the numbers are in the wrong places: a reshape "
                f"straight to it mixes channels and places. {_MOVES} Which operation moves numbers?",
                _filled(0, 1, 2, 3)),
        Mistake("column-by-column", f"The tokens come column by column. {_READING}", _joined(0, 3, 2, 1)),
        Mistake("column-order-then-reshape", "Rows and columns have changed places, and a reshape straight to the "
                f"final shape mixes channels and places. {_MOVES}", _filled(0, 1, 3, 2)),
        Mistake("channels-not-last", "The channels stand between rows and columns when the reshape comes: it cuts "
                "across places. Where do the channels have to stand before two dimensions are joined?",
                _filled(0, 2, 1, 3), _filled(0, 3, 1, 2)),
        Mistake("not-transposed", "Each *channel* is a token here, `(B, C, H · W)`. Each place should be one.",
                lambda x: x.flatten(2)),
        Mistake("not-transposed-columns-first", "Each *channel* is a token here, and its places come column by column. "
                "Each place should be a token.", lambda x: x.transpose(2, 3).flatten(2)),
        Mistake("not-joined", "The channels are at the end, but the places still have two dimensions, `(B, H, W, C)`. "
                "Tokens are one sequence.", lambda x: x.permute(0, 2, 3, 1)),
        Mistake("not-joined-columns-first", "The channels are at the end, but the places still have two dimensions, "
                "and columns come before rows: `(B, W, H, C)`.", lambda x: x.transpose(1, 3)),
        Mistake("row-is-a-token", "Each *row* is a token here, with the numbers of all its places. Each place should "
                "be one.", lambda x: x.permute(0, 2, 3, 1).flatten(2), lambda x: x.transpose(1, 2).flatten(2)),
        Mistake("column-is-a-token", "Each *column* is a token here, with the numbers of all its places. Each place "
                "should be one.", lambda x: x.permute(0, 3, 2, 1).flatten(2),
                lambda x: x.flatten(1, 2).transpose(1, 2)),
        Mistake("channels-joined-with-rows", "Channels and rows were joined, `(B, C · H, W)`: `flatten` begins at the "
                "dimension that it is given, counted from 0. Which two belong to the places?",
                lambda x: x.flatten(1, 2)),
        Mistake("channels-joined-with-places", "Places and channels were joined in one long row: a token for each "
                "image. Only the two dimensions of the places become one.", lambda x: x.flatten(1),
                lambda x: x.permute(0, 2, 3, 1).flatten(1)),
        Mistake("batch-joined", "The images of the batch were joined into one sequence: every image is a sequence of "
                "its own.", lambda x: x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]),
                lambda x: x.permute(0, 2, 3, 1).reshape(1, -1, x.shape[1])),
        Mistake("batch-in-the-middle", "The shape is `(H · W, B, C)`: the tokens stand before the batch. In this "
                "course the batch comes first.", lambda x: x.flatten(2).permute(2, 0, 1)),
        Mistake("all-turned-round", "All dimensions were turned round, the batch too, as `.T` does: `(H · W, C, B)`. "
                "Which two should change places?", lambda x: x.flatten(2).permute(2, 1, 0)),
        Mistake("batch-mixed", "The images are mixed: the batch has to stand first when dimensions are joined.",
                lambda x: x.permute(2, 3, 0, 1).reshape(x.shape[0], -1, x.shape[1]),
                lambda x: x.permute(2, 3, 1, 0).reshape(x.shape[0], -1, x.shape[1]),
                lambda x: x.permute(1, 2, 3, 0).reshape(x.shape[0], -1, x.shape[1])),
        Mistake("backwards", "The tokens come backwards, last place first.", lambda x: to_tokens(x.flip(2, 3))),
        Mistake("rows-upside-down", "The rows come from the bottom to the top.", lambda x: to_tokens(x.flip(2))),
        Mistake("rows-right-to-left", "The rows are read from right to left.", lambda x: to_tokens(x.flip(3))),
        Mistake("channels-backwards", "The channels of each token are in reverse order.",
                lambda x: to_tokens(x).flip(-1)),
        Mistake("first-image-only", "Only the first image of the batch came back.", lambda x: to_tokens(x[:1]),
                lambda x: to_tokens(x)[0]),
        Mistake("averaged", "There is one token for each image, the mean over its places. Each place should be a "
                "token.", lambda x: x.mean((2, 3)), lambda x: x.mean((2, 3))[:, None]),
        Mistake("squeezed", "A dimension of size 1 has disappeared: `squeeze()` takes away all of them, that of a "
                "batch of one image too.", _squeezed),
        Mistake("unchanged", "That is the feature map itself.", lambda x: x),
    ),
)  # fmt: skip

# -------------------------------------------------------------------------------------- to-feature-map


def to_feature_map(tokens, height, width):
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def _channels_first(tokens: Tensor, *sizes: int) -> Tensor:
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *sizes)


def _spread(*dims: int, swapped: bool = False) -> Callable[[Tensor, int, int], Tensor]:
    """The places in two dimensions, then dimensions in another order."""

    def spread(tokens: Tensor, height: int, width: int) -> Tensor:
        sizes = (width, height) if swapped else (height, width)
        return tokens.reshape(tokens.shape[0], *sizes, tokens.shape[2]).permute(dims)

    return spread


def _refilled(*dims: int) -> Callable[[Tensor, int, int], Tensor]:
    """Dimensions in another order, then a reshape straight to the shape that is wanted."""
    return lambda t, h, w: t.permute(dims).reshape(t.shape[0], t.shape[2], h, w)


def _as_square(tokens: Tensor, height: int, width: int) -> Tensor:
    side = int(tokens.shape[1] ** 0.5)
    return _channels_first(tokens, side, side)


_FILLS = "A reshape keeps all numbers in their order in memory, and there the channels of one token are neighbours."

_TO_FEATURE_MAP = Answer(
    id="to-feature-map",
    solution=to_feature_map,
    why="Both steps of to_tokens, backwards: the transpose brings the channels before the places, (B, C, H · W), and "
    "then the last dimension is cut into H rows of W. The order of the two sizes matters: with W rows of H nothing "
    "fails, the shape has changed places, and for a square map not even that shows.",
    hints=(
        "Walk through `to_tokens` backwards: which of its steps came last, and what undoes it?",
        "Channels before places first, `(B, C, H · W)`. Only then cut the places into rows: a row is `width` long, and "
        "there are `height` of them.",
        "`tokens.transpose(1, 2)`, then `.reshape(…)` to four dimensions, or `.unflatten(2, …)`. In which order do "
        "`height` and `width` stand in `(B, C, H, W)`?",
    ),
    mistakes=(
        Mistake("reshape-for-transpose", "The shape is right and the numbers are in the wrong places: a reshape "
                f"straight to it mixes channels and places. {_FILLS} Which operation moves numbers?",
                _refilled(0, 1, 2)),
        Mistake("sides-exchanged", "Height and width are exchanged: the rows got the length of the columns. How many "
                "numbers stand in one row?", lambda t, h, w: _channels_first(t, w, h)),
        Mistake("map-transposed", "Rows and columns have changed places: this is `(B, C, W, H)`, the map mirrored "
                "along its diagonal.", _spread(0, 3, 2, 1)),
        Mistake("column-by-column", "The tokens were put back column by column: a page is filled row by row.",
                _spread(0, 3, 2, 1, swapped=True)),
        Mistake("reshape-with-sides-exchanged", "Height and width are exchanged, and a reshape straight to the final "
                f"shape mixes channels and places. {_FILLS}",
                lambda t, h, w: t.reshape(t.shape[0], t.shape[2], w, h)),
        Mistake("channels-last", "The places are a map again, but the channels stand last, `(B, H, W, C)`. A feature "
                "map has them before its rows.", _spread(0, 1, 2, 3)),
        Mistake("channels-last-sides-exchanged", "The channels stand last, and height and width are exchanged: "
                "`(B, W, H, C)`.", _spread(0, 1, 2, 3, swapped=True)),
        Mistake("channels-in-the-middle", "The channels stand between rows and columns.",
                _spread(0, 1, 3, 2), _spread(0, 2, 3, 1)),
        Mistake("not-cut", "The channels come first now, but the places are still one row, `(B, C, H · W)`.",
                lambda t, h, w: t.transpose(1, 2)),
        Mistake("not-cut-and-widened", "The channels come first now, but the places are still one row: a dimension of "
                "size 1 does not make `height` rows of it.",
                lambda t, h, w: t.transpose(1, 2)[:, :, None], lambda t, h, w: t.transpose(1, 2)[..., None]),
        Mistake("cut-without-order", "The places were cut across the channels: what has to come before what, so that "
                "the last two dimensions are rows and columns of *one* channel?",
                lambda t, h, w: t.reshape(t.shape[0], h, t.shape[2], w).transpose(1, 2),
                lambda t, h, w: t.reshape(t.shape[0], h, t.shape[2], w).permute(0, 2, 3, 1),
                lambda t, h, w: t.reshape(t.shape[0], w, t.shape[2], h).transpose(1, 2),
                lambda t, h, w: t.reshape(t.shape[0], w, t.shape[2], h).permute(0, 2, 3, 1)),
        Mistake("assumes-a-square", "The sides were worked out from the number of tokens, as if every map were square. "
                "They are given.", _as_square),
        Mistake("height-twice", "Both sides are `height`: that fits a square map alone.",
                lambda t, h, w: _channels_first(t, h, h)),
        Mistake("batch-mixed", "The images are mixed: the batch has to stay the first dimension all the way.",
                _refilled(2, 0, 1), _refilled(2, 1, 0), _refilled(1, 2, 0), _refilled(1, 0, 2)),
        Mistake("batch-and-channels-exchanged", "Batch and channels have changed places.",
                lambda t, h, w: to_feature_map(t, h, w).transpose(0, 1)),
        Mistake("upside-down", "The map stands on its head: the first tokens are its first row.",
                lambda t, h, w: to_feature_map(t, h, w).flip(2)),
        Mistake("mirrored", "The rows run from right to left.", lambda t, h, w: to_feature_map(t, h, w).flip(3)),
        Mistake("backwards", "The tokens were put back from the last to the first.",
                lambda t, h, w: to_feature_map(t.flip(1), h, w)),
        Mistake("first-image-only", "Only the first image of the batch came back.",
                lambda t, h, w: to_feature_map(t[:1], h, w), lambda t, h, w: to_feature_map(t, h, w)[0]),
        Mistake("squeezed", "A dimension of size 1 has disappeared: `squeeze()` takes away all of them, that of a "
                "batch of one image too.", lambda t, h, w: to_feature_map(t, h, w).squeeze()),
        Mistake("unchanged", "Those are the tokens themselves.", lambda t, h, w: t),
    ),
)  # fmt: skip

# -------------------------------------------------------------------------------------------- patchify


def patchify(x, patch):
    batch, channels, height, width = x.shape
    if height % patch or width % patch:
        raise ValueError(f"patches of {patch} × {patch} do not fill an image of {height} × {width} pixels")
    rows, columns = height // patch, width // patch
    x = x.reshape(batch, channels, rows, patch, columns, patch)
    x = x.permute(0, 2, 4, 1, 3, 5)  # (B, rows, columns, C, p, p)
    return x.reshape(batch, rows * columns, channels * patch * patch)


def _divided(x: Tensor, patch: int) -> bool:
    return x.shape[2] % patch == 0 and x.shape[3] % patch == 0


def _refuse(x: Tensor, patch: int) -> None:
    """As the right answer does, to the word: an error is compared by its beginning."""
    height, width = x.shape[2:]
    raise ValueError(f"patches of {patch} × {patch} do not fill an image of {height} × {width} pixels")


def _patches(
    *dims: int,
    cut: Callable[[int, int], tuple[int, int]] = lambda count, patch: (count, patch),
    result: Callable[[Tensor], Tensor] = lambda six: six.flatten(3).flatten(1, 2),
) -> Callable[[Tensor, int], Tensor]:
    """Both sides cut in two, then the six dimensions in the order ``dims``; errors as in the right answer."""

    def patchify(x: Tensor, patch: int) -> Tensor:
        batch, channels, height, width = x.shape
        if not _divided(x, patch):
            _refuse(x, patch)
        six = x.reshape(batch, channels, *cut(height // patch, patch), *cut(width // patch, patch))
        return result(six.permute(dims or (0, 2, 4, 1, 3, 5)))

    return patchify


def _made(make: Callable[[Tensor, int], Any]) -> Callable[[Tensor, int], Any]:
    """``make``, with errors as in the right answer."""

    def patchify(x: Tensor, patch: int) -> Any:
        if not _divided(x, patch):
            _refuse(x, patch)
        return make(x, patch)

    return patchify


def _straight(x: Tensor, patch: int) -> Tensor:
    height, width = x.shape[2] // patch, x.shape[3] // patch
    return x.reshape(x.shape[0], height * width, x.shape[1] * patch * patch)


def _across(x: Tensor, patch: int) -> Tensor:
    """One reshape to six dimensions, the patches before their pixels."""
    height, width = x.shape[2] // patch, x.shape[3] // patch
    return (
        x.reshape(*x.shape[:2], height, width, patch, patch)
        .permute(0, 2, 3, 1, 4, 5)
        .flatten(3)
        .flatten(1, 2)
    )


def _channel_by_channel(x: Tensor, patch: int) -> Tensor:
    """Patches of one channel, in the order in which ``unfold`` leaves them, then a reshape to the shape."""
    windows = x.unfold(2, patch, patch).unfold(3, patch, patch)
    return windows.reshape(x.shape[0], windows.shape[2] * windows.shape[3], -1)


def _reshaped(x: Tensor, patch: int) -> Tensor:
    """Right where the sides are divided; elsewhere a reshape fails."""
    batch, channels, height, width = x.shape
    rows, columns = height // patch, width // patch
    six = x.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
    return six.reshape(batch, rows * columns, -1)


def _sliced(x: Tensor, patch: int) -> Tensor:
    """What is over at the edge is left out."""
    rows, columns = x.shape[2] // patch, x.shape[3] // patch
    return patchify(x[:, :, : rows * patch, : columns * patch], patch)


def _windows(x: Tensor, patch: int) -> Tensor:
    windows = x.unfold(2, patch, patch).unfold(3, patch, patch)
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def _columns(x: Tensor, patch: int) -> Tensor:
    return F.unfold(x, patch, stride=patch).transpose(1, 2)


def _convolved(x: Tensor, patch: int) -> Tensor:
    size = x.shape[1] * patch * patch
    kernel = torch.eye(size).reshape(size, x.shape[1], patch, patch)
    return F.conv2d(x, kernel, stride=patch).flatten(2).transpose(1, 2)


def _unshuffled(x: Tensor, patch: int) -> Tensor:
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def _unflattened(x: Tensor, patch: int) -> Tensor:
    six = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).permute(0, 2, 4, 1, 3, 5)
    return six.flatten(3).flatten(1, 2)


def _padded(x: Tensor, patch: int) -> Tensor:
    """Zeros at the right and at the bottom fill the last patches."""
    return patchify(F.pad(x, (0, -x.shape[3] % patch, 0, -x.shape[2] % patch)), patch)


def _asking(
    fine: Callable[[int, int, int], bool], *ways: Callable[[Tensor, int], Tensor]
) -> list[Callable[[Tensor, int], Tensor]]:
    """Answers that refuse where ``fine`` says no, and go on in one of several ways where it wrongly says yes."""

    def asking(way: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
        def ask(x: Tensor, patch: int) -> Tensor:
            if not fine(x.shape[2], x.shape[3], patch):
                _refuse(x, patch)
            return way(x, patch)

        return ask

    return [asking(way) for way in ways]


def _asserting(x: Tensor, patch: int) -> Tensor:
    assert _divided(x, patch)
    return _reshaped(x, patch)


def _instead(value: Callable[[Tensor, int], Any]) -> Callable[[Tensor, int], Any]:
    """``value`` in place of an error."""
    return lambda x, patch: patchify(x, patch) if _divided(x, patch) else value(x, patch)


_FAILING = (_reshaped, _unshuffled, _unflattened)  # where a side is not divided
# They fail in other ways where a side is shorter than a patch.
_CROPPING = (_sliced, _columns, _windows, _convolved)
_EDGE = "What happens to the pixels that are left over?"
_INSIDE = "A patch is flattened from `(C, p, p)`: the channel changes slowest, the column fastest."

_PATCHIFY = Answer(
    id="patchify",
    solution=patchify,
    why="Both sides are cut in two, H into (H/p, p) and W into (W/p, p), which moves nothing. The permute then brings "
    "the two counts of patches to the front and leaves (C, p, p) behind them, and the last reshape joins what now lies "
    "in order. A reshape without the permute would cut straight through the rows of the image.",
    hints=(
        "Begin with one row of pixels, `W` of them. Which reshape cuts it into pieces of `p`? Then do the same with "
        "the other side. How many dimensions has the whole batch then?",
        "Three steps: cut `(B, C, H, W)` into six dimensions, put them in order, join them to three. In the end the "
        "two that count patches stand side by side, and then those that say where in the patch.",
        "`x.reshape(B, C, H // p, p, W // p, p)`: number the six from 0. Which two count patches? They come right "
        "after the batch, and `(C, p, p)` follows. That is the argument of `permute`.",
        "The test comes before all this: `H % p` is what is left over of one side, and 0 where `p` divides it. Either "
        "of the two sides may be the one that does not fit.",
    ),
    mistakes=(
        Mistake("reshape-for-permute", "The shape is right and the numbers are in the wrong places: a reshape straight "
                "to it takes the numbers as they lie in memory, whole rows of the image one after the other. Which "
                "operation moves numbers?", _made(_straight)),
        Mistake("cut-across-rows", "One reshape made the patches: it cuts across rows, so that a patch holds numbers "
                "that are neighbours in memory, not in the image. Each *side* has to be cut by itself.",
                _made(_across)),
        Mistake("channels-last", f"In each token the channels of a pixel stand side by side. {_INSIDE}",
                _patches(0, 2, 4, 3, 5, 1)),
        Mistake("channels-in-the-middle", f"In each token the channels stand between rows and columns. {_INSIDE}",
                _patches(0, 2, 4, 3, 1, 5)),
        Mistake("patches-column-by-column", "The patches come column by column. A page is read row by row.",
                _patches(0, 4, 2, 1, 3, 5)),
        Mistake("pixels-column-by-column", f"Inside a patch the pixels come column by column. {_INSIDE}",
                _patches(0, 2, 4, 1, 5, 3)),
        Mistake("all-column-by-column", "Patches, and the pixels in them, come column by column. A page is read row by "
                "row.", _patches(0, 4, 2, 1, 5, 3)),
        Mistake("channels-last-column-by-column", "In each token the channels of a pixel stand side by side, and its "
                f"pixels come column by column. {_INSIDE}", _patches(0, 2, 4, 5, 3, 1)),
        Mistake("patches-of-one-channel", "A token holds numbers of several patches of the same channel: before "
                "dimensions are joined, the channels have to stand behind the two that count patches.",
                _made(_channel_by_channel)),
        Mistake("patches-of-channels", "Each patch of each channel is a token of its own. A token holds all channels.",
                _patches(0, 1, 2, 4, 3, 5, result=lambda six: six.flatten(1, 3).flatten(2)),
                _patches(0, 2, 4, 1, 3, 5, result=lambda six: six.flatten(1, 3).flatten(2))),
        Mistake("every-nth-pixel", "A token holds pixels from all over the image: each side was cut into `p` pieces of "
                "`H / p`, not into `H / p` pieces of `p`.",
                _patches(0, 3, 5, 1, 2, 4, cut=lambda count, patch: (patch, count))),
        Mistake("exchanged-cut", "Each side was cut into `p` pieces of `H / p`, not into `H / p` pieces of `p`.",
                _patches(cut=lambda count, patch: (patch, count))),
        Mistake("sides-exchanged", "Height and width have changed places in the reshape: the first of the two sides is "
                "`H`.", _made(lambda x, p: patchify(x.reshape(*x.shape[:2], x.shape[3], x.shape[2]), p))),
        Mistake("overlapping", "The patches overlap: the next one begins one pixel farther on. By default `unfold` and "
                "convolutions move by a stride of 1.", _made(lambda x, p: F.unfold(x, p).transpose(1, 2))),
        Mistake("not-transposed", "The patches stand in columns, `(B, C · p · p, number of patches)`, as `F.unfold` "
                "returns them. A token is a row.", _made(lambda x, p: F.unfold(x, p, stride=p))),
        Mistake("reshape-of-columns", "The patches stood in columns, as `F.unfold` returns them, and a reshape cut "
                "across them. Which operation makes rows of columns?",
                _made(lambda x, p: F.unfold(x, p, stride=p).reshape(x.shape[0], -1, x.shape[1] * p * p))),
        Mistake("batch-mixed", "The images are mixed: the batch has to stay the first dimension all the way.",
                _made(lambda x, p: _windows(x, p).transpose(0, 1).reshape(x.shape[0], -1, x.shape[1] * p * p))),
        Mistake("batch-in-the-middle", "The tokens stand before the batch. In this course the batch comes first.",
                _made(lambda x, p: _windows(x, p).transpose(0, 1))),
        Mistake("batch-joined", "The images of the batch were joined into one sequence: every image is a sequence of "
                "its own.", _made(lambda x, p: _windows(x, p).flatten(0, 1)),
                _made(lambda x, p: _windows(x, p).flatten(0, 1)[None])),
        Mistake("grid-not-joined", "The patches still form a grid, `(B, H/p, W/p, C · p · p)`. Tokens are one "
                "sequence.", _patches(result=lambda six: six.flatten(3))),
        Mistake("patch-not-flattened", "The patches are a sequence, but each is still `(C, p, p)`. A token is a "
                "vector.", _patches(result=lambda six: six.flatten(1, 2))),
        Mistake("six-dimensions", "The patches are cut and in order, but nothing was joined: there are six dimensions.",
                _patches(result=lambda six: six)),
        Mistake("patch-averaged", "Each patch was reduced to one number a channel. A token holds all pixels of its "
                "patch.", _made(lambda x, p: F.avg_pool2d(x, p).flatten(2).transpose(1, 2)),
                _made(lambda x, p: F.max_pool2d(x, p).flatten(2).transpose(1, 2)),
                _made(lambda x, p: x[:, :, ::p, ::p].flatten(2).transpose(1, 2))),
        Mistake("first-image-only", "Only the first image of the batch came back.",
                _made(lambda x, p: patchify(x[:1], p)), _made(lambda x, p: patchify(x, p)[0])),
        Mistake("pixels-for-patches", "Every pixel is a token here. Wanted is one token for each patch.",
                _made(lambda x, p: x.flatten(2).transpose(1, 2))),
        Mistake("only-height-asked", f"Only the height is tested. {_EDGE}",
                *_asking(lambda h, w, p: h % p == 0, *_FAILING, _sliced)),
        Mistake("only-width-asked", f"Only the width is tested. {_EDGE}",
                *_asking(lambda h, w, p: w % p == 0, *_FAILING, *_CROPPING)),
        Mistake("both-or-none", "It refuses where *neither* side is divided. One side that is not is enough to lose "
                "pixels: `and` and `or` are exchanged.",
                *_asking(lambda h, w, p: h % p == 0 or w % p == 0, *_FAILING, *_CROPPING)),
        Mistake("area-asked", "The number of pixels is tested, not the sides: 5 × 6 pixels are a multiple of 3, and "
                "yet a square of 3 × 3 does not fit in twice below itself.",
                *_asking(lambda h, w, p: h * w % p == 0, *_FAILING, _sliced),
                *_asking(lambda h, w, p: h * w % p**2 == 0, *_FAILING, *_CROPPING)),
        Mistake("sum-asked", "The sum of both sides is tested. Two sides that are not divided may have a sum that is.",
                *_asking(lambda h, w, p: (h + w) % p == 0, *_FAILING, _sliced)),
        Mistake("pixels-dropped", f"Where `p` does not divide a side, patches came back all the same. {_EDGE} Say so "
                "with a `ValueError`.", _columns, _windows, _sliced, _convolved),
        Mistake("no-test", "Where `p` does not divide a side, an operation fails half-way, with an error that does not "
                "say what is wrong with the arguments. Test them first, and raise a `ValueError`.",
                _reshaped, _unshuffled, _unflattened),
        Mistake("padded", "The image was filled up with zeros where `p` does not divide a side. Wanted is a "
                "`ValueError`.", _padded),
        Mistake("assertion", "An `assert` states what the *program* takes to be true, and `python -O` leaves it out. "
                "For arguments that do not fit, raise a `ValueError`.", _asserting),
        Mistake("none-in-place-of-an-error", "Where `p` does not divide a side, None came back, and whoever called "
                "goes on with it. Raise a `ValueError`.", _instead(lambda x, p: None)),
        Mistake("error-returned", "The `ValueError` was returned. An error is raised, so that it cannot be overlooked: "
                "`raise`.", _instead(lambda x, p: ValueError("does not fit")), _instead(lambda x, p: ValueError)),
        Mistake("word-in-place-of-an-error", "Where `p` does not divide a side, a word came back. Raise a "
                "`ValueError`.", _instead(lambda x, p: "ValueError"), _instead(lambda x, p: "does not fit")),
        Mistake("unchanged-in-place-of-an-error", "Where `p` does not divide a side, the image itself came back. Raise "
                "a `ValueError`.", _instead(lambda x, p: x)),
    ),
)  # fmt: skip

# -------------------------------------------------------------------------------------- hybrid-forward


def hybrid_forward(x, backbone, positions, blocks, head):
    tokens = backbone(x).flatten(2).transpose(1, 2) + positions
    for block in blocks:
        tokens, _ = block(tokens)  # the weights are not needed
    return head(tokens.mean(dim=1))


def _place(tokens: Tensor, positions: Tensor) -> Tensor:
    return tokens + positions


def _one_after_the_other(tokens: Tensor, blocks: Iterable[Any], positions: Tensor) -> Tensor:
    for block in blocks:
        tokens = block(tokens)[0]
    return tokens


def _mean_first(tokens: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    return head(tokens.mean(1))


def _hybrid(
    read: Callable[[Tensor], Tensor] = to_tokens,
    place: Callable[[Tensor, Tensor], Tensor] = _place,
    attend: Callable[[Tensor, Any, Tensor], Any] = _one_after_the_other,
    end: Callable[[Any, Any], Any] = _mean_first,
) -> Callable[..., Any]:
    """The whole way, with one of its steps done differently."""

    def forward(x: Tensor, backbone: Any, positions: Tensor, blocks: Any, head: Any) -> Any:
        return end(attend(place(read(backbone(x)), positions), blocks, positions), head)

    return forward


def _no_backbone(x: Tensor, backbone: Any, positions: Tensor, blocks: Any, head: Any) -> Tensor:
    return hybrid_forward(x, lambda images: images, positions, blocks, head)


def _through(step: Callable[[Tensor, Any, int, Tensor, Tensor], Any]) -> Callable[..., Any]:
    """``step(tokens, block, number, start, positions)`` for one block after the other."""

    def attend(tokens: Tensor, blocks: Any, positions: Tensor) -> Any:
        start = tokens
        for number, block in enumerate(blocks):
            tokens = step(tokens, block, number, start, positions)
        return tokens

    return attend


def _collect(join: Callable[[list[Tensor]], Tensor]) -> Callable[..., Tensor]:
    """Every block reads the tokens as they were at the beginning."""
    return lambda tokens, blocks, positions: join([block(tokens)[0] for block in blocks])


def _residual(tokens: Tensor, block: Any, number: int, start: Tensor, positions: Tensor) -> Tensor:
    return tokens + block(tokens)[0]


def _positions_before_each(
    tokens: Tensor, block: Any, number: int, start: Tensor, positions: Tensor
) -> Tensor:
    return block(tokens + positions)[0] if number else block(tokens)[0]


def _returning_weights(x: Tensor, backbone: Any, positions: Tensor, blocks: Any, head: Any) -> Any:
    tokens, maps = to_tokens(backbone(x)) + positions, []
    for block in blocks:
        tokens, weights = block(tokens)
        maps.append(weights)
    return head(tokens.mean(1)), maps


def _last_weights(x: Tensor, backbone: Any, positions: Tensor, blocks: Any, head: Any) -> Any:
    logits, maps = _returning_weights(x, backbone, positions, blocks, head)
    return logits, maps[-1]


def _tokens_too(x: Tensor, backbone: Any, positions: Tensor, blocks: Any, head: Any) -> Any:
    tokens = _one_after_the_other(to_tokens(backbone(x)) + positions, blocks, positions)
    return head(tokens.mean(1)), tokens


_PAIR = "A block returns two things, `(tokens, weights)`."
_SUMMARY = "Wanted is the mean of an image's tokens."
_WHERE = "What would tell the blocks where a token stood?"

_HYBRID_FORWARD = Answer(
    id="hybrid-forward",
    solution=hybrid_forward,
    why="The map's places become tokens row by row, as the positions are numbered; broadcasting gives the same "
    "positions to every image. Each block reads what the one before it left, and only the first of the two things that "
    "it returns goes on. The mean keeps the width and makes one vector of any number of tokens, so the head never sees "
    "how large the map was.",
    hints=(
        "Write the shapes along the way: from the images to `(B, C, H, W)`, `(B, H · W, C)`, the same after each "
        "block, `(B, C)`, and the logits.",
        "`to_tokens` of the feature map gives what `positions` has as well, but for the batch, which broadcasts: "
        "adding them is enough. When has it to be done, so that the blocks know of it?",
        "A loop over the blocks: each gets the tokens that the one before it returned. Mind that a pair comes back: "
        "`tokens, _ = …`.",
        "After the loop the tokens are `(B, H · W, C)`. Over which dimension does the mean run, so that each image is "
        "left with one vector of `C` numbers? The head comes after it.",
    ),
    mistakes=(
        Mistake("positions-forgotten", f"`positions` has no part in the result. {_WHERE}",
                _hybrid(place=lambda t, p: t)),
        Mistake("positions-after-the-blocks", f"The positions were added after the blocks, too late. {_WHERE}",
                _hybrid(place=lambda t, p: t, attend=lambda t, bs, p: _one_after_the_other(t, bs, p) + p)),
        Mistake("positions-after-each-block", "The positions were added after each block. They belong to the tokens "
                "once, before the first.", _hybrid(place=lambda t, p: t,
                                             attend=_through(lambda t, b, i, s, p: b(t)[0] + p))),
        Mistake("positions-before-each-block", "The positions were added before every block. They belong to the tokens "
                "once, before the first.", _hybrid(attend=_through(_positions_before_each))),
        Mistake("positions-twice", "The positions were added twice.", _hybrid(place=lambda t, p: t + 2 * p),
                _hybrid(attend=lambda t, bs, p: _one_after_the_other(t, bs, p) + p)),
        Mistake("positions-multiplied", "The tokens were multiplied by the positions. They are added.",
                _hybrid(place=lambda t, p: t * p)),
        Mistake("positions-subtracted", "The positions were subtracted. They are added.",
                _hybrid(place=lambda t, p: t - p)),
        Mistake("positions-alone", "The tokens were replaced by the positions: what the images show is lost.",
                _hybrid(place=lambda t, p: p.expand_as(t)), _hybrid(place=lambda t, p: p)),
        Mistake("tokens-column-by-column", "The tokens come column by column, and meet the positions of other places. "
                "Your `to_tokens` shows the way.",
                _hybrid(read=lambda x: x.transpose(2, 3).flatten(2).transpose(1, 2))),
        Mistake("reshape-for-transpose", "The tokens were made by a reshape straight to `(B, H · W, C)`, which mixes "
                "channels and places. Your `to_tokens` shows the way.",
                _hybrid(read=lambda x: x.reshape(x.shape[0], -1, x.shape[1]))),
        Mistake("channels-as-tokens", "The tokens were not transposed: each channel is one, `(B, C, H · W)`. Each "
                "place should be.", _hybrid(read=lambda x: x.flatten(2))),
        Mistake("map-not-flattened", "The feature map went on as it is, `(B, C, H, W)`. The blocks read tokens, "
                "`(B, H · W, C)`.", _hybrid(read=lambda x: x), _hybrid(read=lambda x: x.permute(0, 2, 3, 1))),
        Mistake("no-backbone", "The images themselves were made into tokens: `backbone` comes first.", _no_backbone),
        Mistake("only-first-block", "Only the first block was used. Does the loop end too early, or is there a "
                "`return` in it?", _hybrid(attend=lambda t, bs, p: _one_after_the_other(t, list(bs)[:1], p))),
        Mistake("only-last-block", "Only the last block counts: each one reads the same tokens, and its result "
                "replaces that of the one before. What should the second block read?",
                _hybrid(attend=_collect(lambda results: results[-1]))),
        Mistake("last-block-left-out", "The last block was not used.",
                _hybrid(attend=lambda t, bs, p: _one_after_the_other(t, list(bs)[:-1], p))),
        Mistake("first-block-left-out", "The first block was not used.",
                _hybrid(attend=lambda t, bs, p: _one_after_the_other(t, list(bs)[1:], p))),
        Mistake("no-blocks", "The blocks have no part in the result.", _hybrid(attend=lambda t, bs, p: t)),
        Mistake("blocks-backwards", "The blocks were used from the last to the first.",
                _hybrid(attend=lambda t, bs, p: _one_after_the_other(t, list(bs)[::-1], p))),
        Mistake("blocks-twice", "Every block was used more than once.",
                _hybrid(attend=_through(lambda t, b, i, s, p: b(b(t)[0])[0])),
                _hybrid(attend=lambda t, bs, p: _one_after_the_other(t, [*bs, *bs], p))),
        Mistake("first-block-each-time", "The same block was used each time.",
                _hybrid(attend=lambda t, bs, p: _one_after_the_other(t, [next(iter(bs)) for _ in bs], p))),
        Mistake("blocks-side-by-side", "Every block reads the same tokens, and their results were added up or "
                "averaged. What should the second block read?",
                _hybrid(attend=_collect(lambda results: torch.stack(results).sum(0))),
                _hybrid(attend=_collect(lambda results: torch.stack(results).mean(0)))),
        Mistake("residual-added", "The tokens were added to what a block returns. What a block returns *are* the new "
                "tokens: its residual connections are inside.", _hybrid(attend=_through(_residual)),
                _hybrid(attend=lambda t, bs, p: t + _one_after_the_other(t, bs, p))),
        Mistake("weights-for-tokens", f"The attention weights went on in place of the tokens. {_PAIR} Which comes "
                "first?", _hybrid(attend=_through(lambda t, b, i, s, p: b(t)[1]))),
        Mistake("weights-in-the-end", f"The weights of the last block went to the head. {_PAIR} Which comes first?",
                _hybrid(attend=lambda t, bs, p: list(bs)[-1](_one_after_the_other(t, list(bs)[:-1], p))[1])),
        Mistake("pair-passed-on", f"{_PAIR} Both went on, as one tuple, to where tokens were expected: "
                "`nn.Sequential`, called as a whole, does so as well. Take the pair apart after each block.",
                _hybrid(attend=_through(lambda t, b, i, s, p: b(t)))),
        Mistake("blocks-called", "`blocks` was called as if it were one module. It holds several: go through them one "
                "by one.", _hybrid(attend=lambda t, bs, p: bs(t)), _hybrid(attend=lambda t, bs, p: bs(t)[0])),
        Mistake("sum-for-mean", f"The tokens were added up: a larger map gives larger numbers. {_SUMMARY}",
                _hybrid(end=lambda t, head: head(t.sum(1)))),
        Mistake("max-for-mean", f"The largest number of each channel was taken. {_SUMMARY}",
                _hybrid(end=lambda t, head: head(t.amax(1)))),
        Mistake("median-for-mean", f"The median of each channel was taken. {_SUMMARY}",
                _hybrid(end=lambda t, head: head(t.median(1).values))),
        Mistake("first-token", "The head got the first token. That is for models with a token of its own for the "
                f"class: here there is none. {_SUMMARY}", _hybrid(end=lambda t, head: head(t[:, 0]))),
        Mistake("last-token", f"The head got the last token. {_SUMMARY}", _hybrid(end=lambda t, head: head(t[:, -1]))),
        Mistake("mean-over-channels", f"The mean runs over the channels: one number is left for each token. {_SUMMARY}",
                _hybrid(end=lambda t, head: head(t.mean(-1)))),
        Mistake("mean-over-the-batch", f"The mean runs over the images. {_SUMMARY}",
                _hybrid(end=lambda t, head: head(t.mean(0)))),
        Mistake("head-before-mean", "The head was applied to every token, and its results were averaged. The two agree "
                "for a linear head alone: from the mean token, a head that is not linear makes something else. What "
                "comes first?", _hybrid(end=lambda t, head: head(t).mean(1))),
        Mistake("logits-of-every-token", "There are logits for every token: the mean is missing. Wanted are those of "
                "the image.", _hybrid(end=lambda t, head: head(t))),
        Mistake("logits-added-up", "The head was applied to every token, and the logits were added up. "
                f"{_SUMMARY}", _hybrid(end=lambda t, head: head(t).sum(1))),
        Mistake("tokens-side-by-side", "All tokens of an image were joined into one long vector. The head takes `C` "
                f"numbers. {_SUMMARY}", _hybrid(end=lambda t, head: head(t.flatten(1)))),
        Mistake("mean-keeps-a-dimension", "There is a dimension of size 1 where the tokens were: `(B, 1, classes)`.",
                _hybrid(end=lambda t, head: head(t.mean(1, keepdim=True)))),
        Mistake("mean-before-the-blocks", "The tokens were averaged before the blocks, which then had nothing to "
                "compare.", _hybrid(attend=lambda t, bs, p: _one_after_the_other(t.mean(1, keepdim=True), bs, p))),
        Mistake("no-head", "The mean token came back: the head makes logits of it.",
                _hybrid(end=lambda t, head: t.mean(1))),
        Mistake("tokens-returned", "The tokens came back: their mean, and the head, are still to come.",
                _hybrid(end=lambda t, head: t)),
        Mistake("softmax-at-the-end", "A softmax was taken of the logits. Logits are wanted: the loss, or whoever "
                "reads them, does the rest.", _hybrid(end=lambda t, head: head(t.mean(1)).softmax(-1)),
                _hybrid(end=lambda t, head: head(t.mean(1)).log_softmax(-1)),
                _hybrid(end=lambda t, head: head(t.mean(1)).sigmoid())),
        Mistake("class-returned", "The number of the largest logit came back. Wanted are the logits.",
                _hybrid(end=lambda t, head: head(t.mean(1)).argmax(-1))),
        Mistake("returns-more", "More than the logits came back. Wanted are the logits alone.",
                _returning_weights, _last_weights, _tokens_too),
        Mistake("normalised", "The tokens were normalised on the way. No step asks for that: norms are inside the "
                "blocks.", _hybrid(end=lambda t, head: head(F.layer_norm(t, t.shape[-1:]).mean(1))),
                _hybrid(place=lambda t, p: F.layer_norm(t + p, t.shape[-1:])),
                _hybrid(end=lambda t, head: head(F.layer_norm(t.mean(1), t.shape[-1:])))),
    ),
)  # fmt: skip

ANSWERS = (
    _TO_TOKENS,
    _TO_FEATURE_MAP,
    _PATCHIFY,
    _HYBRID_FORWARD,
)
