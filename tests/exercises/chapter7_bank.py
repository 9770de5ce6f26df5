"""Chapter 7: right answers in many hands, and wrong ones as learners write them.

The package keeps a bank of wrong answers too, for diagnosis; these are written independently of it.
"""

import functools
import math
import operator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# ------------------------------------------------------------------------------------------- to-tokens


def tokens_in_loops(x):
    batch, channels, height, width = x.shape
    out = torch.empty(batch, height * width, channels)
    for i in range(height):
        for j in range(width):
            out[:, i * width + j] = x[:, :, i, j]
    return out


def tokens_of_rows(x):
    return torch.cat([row.mT for row in x.unbind(2)], dim=1)


def tokens_of_channels(x):
    return torch.stack([channel.reshape(len(x), -1) for channel in x.unbind(1)], dim=-1)


def tokens_one_by_one(x):
    tokens = []
    for image in x:
        tokens.append(torch.stack([image[:, i, j] for i in range(x.size(2)) for j in range(x.size(3))]))
    return torch.stack(tokens)


def tokens_gathered(x):
    places = torch.arange(x.shape[2] * x.shape[3])
    return x[:, :, places // x.shape[3], places % x.shape[3]].swapaxes(1, 2)


def tokens_by_convolution(x):
    """A 1 × 1 convolution that changes nothing, as a patch embedding would."""
    same = nn.Conv2d(x.size(1), x.size(1), 1, bias=False)
    same.weight.data = torch.eye(x.size(1))[..., None, None]
    return same(x).flatten(2).mT


class Reader(nn.Module):
    def forward(self, x):
        return torch.movedim(x, 1, -1).reshape(x.size(0), -1, x.size(1))


def _joined_places(order, x):
    return x.permute(order).flatten(1, 2)


TOKENS_RIGHT = {
    "flatten": lambda x: x.flatten(2).transpose(1, 2),
    "view": lambda x: x.view(x.size(0), x.size(1), -1).permute(0, 2, 1).contiguous(),
    "permute": lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], x.shape[2] * x.shape[3], x.shape[1]),
    "permute and view": lambda x: x.permute(0, 2, 3, 1).view(x.shape[0], -1, x.shape[1]),
    "einsum": lambda x: torch.einsum("bchw->bhwc", x).flatten(1, 2),
    "mT": lambda x: torch.flatten(x, start_dim=-2).mT,
    "loops": tokens_in_loops,
    "rows": tokens_of_rows,
    "channels": tokens_of_channels,
    "places": tokens_one_by_one,
    "gather": tokens_gathered,
    "unfold": lambda x: F.unfold(x, kernel_size=1).transpose(1, 2),
    "convolution": tokens_by_convolution,
    "module": Reader(),
    "partial": functools.partial(_joined_places, (0, 2, 3, 1)),
    "mean of two": lambda x: (x.flatten(2).mT + x.permute(0, 2, 3, 1).flatten(1, 2)) / 2,
}


def _tokens_columns(x):
    height, width = x.shape[-2:]
    return torch.stack([x[:, :, i, j] for j in range(width) for i in range(height)], dim=1)


def _tokens_through_numpy(x):
    return torch.from_numpy(np.moveaxis(x.detach().numpy(), 1, -1).reshape(len(x), -1, x.size(1)).copy())


TOKENS_WRONG = {
    "reshape-for-transpose": lambda x: x.view(x.size(0), -1, x.size(1)),
    "reshape-for-transpose: sizes": lambda x: x.reshape(x.shape[0], x.shape[2] * x.shape[3], x.shape[1]),
    "column-by-column": _tokens_columns,
    "column-by-column: permute": lambda x: x.permute(0, 3, 2, 1).reshape(x.shape[0], -1, x.shape[1]),
    "column-by-column: swapped": lambda x: x.transpose(2, 3).flatten(2).transpose(1, 2),
    "column-order-then-reshape": lambda x: x.mT.reshape(x.size(0), -1, x.size(1)),
    "channels-not-last": lambda x: x.transpose(1, 2).reshape(x.size(0), -1, x.size(1)),
    "channels-not-last: after columns": lambda x: x.permute(0, 3, 1, 2).reshape(x.size(0), -1, x.size(1)),
    "not-transposed": lambda x: x.view(x.size(0), x.size(1), -1),
    "not-transposed-columns-first": lambda x: x.mT.flatten(2),
    "not-joined": lambda x: torch.movedim(x, 1, 3),
    "not-joined-columns-first": lambda x: x.permute(0, 3, 2, 1),
    "row-is-a-token": lambda x: x.permute(0, 2, 3, 1).reshape(x.size(0), x.size(2), -1),
    "row-is-a-token: channel by channel": lambda x: x.permute(0, 2, 1, 3).reshape(x.size(0), x.size(2), -1),
    "column-is-a-token": lambda x: x.flatten(1, 2).mT,
    "channels-joined-with-rows": lambda x: torch.flatten(x, 1, 2),
    "channels-joined-with-places": lambda x: torch.flatten(x, 1),
    "batch-joined": lambda x: x.permute(0, 2, 3, 1).reshape(-1, x.size(1)),
    "batch-in-the-middle": lambda x: x.permute(2, 3, 0, 1).flatten(0, 1),
    "all-turned-round": lambda x: x.flatten(2).permute(2, 1, 0),
    "batch-mixed": lambda x: x.permute(2, 3, 0, 1).reshape(x.size(0), -1, x.size(1)),
    "backwards": lambda x: x.flatten(2).mT.flip(1),
    "first-image-only": lambda x: x[0].flatten(1).T,
    "averaged": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(2).mT,
    "squeezed": lambda x: x.permute(0, 2, 3, 1).flatten(1, 2).squeeze(),
    "cuts-gradient": _tokens_through_numpy,
    "wrong-dtype": lambda x: x.flatten(2).mT.double(),
    "returns-none": lambda x: print(end=str(x.flatten(2).mT.shape)[:0]),
    "changes-input": lambda x: x.add_(1).sub(1).flatten(2).mT,
}

# -------------------------------------------------------------------------------------- to-feature-map


def map_in_loops(tokens, height, width):
    out = torch.zeros(tokens.size(0), tokens.size(2), height, width)
    for place in range(tokens.size(1)):
        out[:, :, place // width, place % width] = tokens[:, place]
    return out


def map_of_rows(tokens, rows, columns):
    return torch.stack([row.mT for row in tokens.split(columns, dim=1)], dim=2)


def map_of_channels(tokens, rows, columns):
    return torch.stack([c.reshape(-1, rows, columns) for c in tokens.unbind(-1)], 1)


def map_of_lists(t, h, w):
    rows = [torch.stack([t[:, i * w + j] for j in range(w)], -1) for i in range(h)]
    return torch.stack(rows, dim=-2)


MAP_RIGHT = {
    "reshape": lambda t, h, w: t.transpose(1, 2).reshape(t.shape[0], t.shape[2], h, w),
    "view": lambda t, h, w: t.permute(0, 2, 1).contiguous().view(t.size(0), -1, h, w),
    "view of a transpose": lambda t, h, w: t.mT.view(t.size(0), t.size(2), h, w),
    "unflatten": lambda t, h, w: torch.unflatten(t, 1, (h, w)).permute(0, 3, 1, 2),
    "movedim": lambda t, h, w: torch.movedim(t.reshape(len(t), h, w, -1), -1, 1),
    "einsum": lambda t, h, w: torch.einsum("bhwc->bchw", t.view(t.size(0), h, w, t.size(2))),
    "fold": lambda t, h, w: F.fold(t.transpose(1, 2), (h, w), kernel_size=1),
    "loops": map_in_loops,
    "rows": map_of_rows,
    "channels": map_of_channels,
    "lists": map_of_lists,
    "height alone": lambda t, h, w: t.mT.unflatten(-1, (h, -1)),
    "width alone": lambda t, h, w: t.swapaxes(1, 2).unflatten(-1, (-1, w)).clone(),
    "two transposes": lambda t, h, w: t.reshape(len(t), h, w, -1).transpose(1, 3).transpose(2, 3),
    "channels last": lambda t, h, w: t.mT.reshape(len(t), -1, h, w).to(memory_format=torch.channels_last),
    "partial": functools.partial(lambda flag, *arguments: map_of_rows(*arguments), True),
}


def _map_columns(t, h, w):
    out = torch.zeros(t.size(0), t.size(2), h, w)
    for place in range(t.size(1)):
        out[:, :, place % h, place // h] = t[:, place]
    return out


def _map_square(t, h, w):
    side = int(math.sqrt(t.shape[1]))
    return t.transpose(1, 2).view(t.shape[0], t.shape[2], side, side)


MAP_WRONG = {
    "reshape-for-transpose": lambda t, h, w: t.view(t.size(0), t.size(2), h, w),
    "reshape-for-transpose: -1": lambda t, h, w: t.reshape(t.size(0), -1, h, w),
    "sides-exchanged": lambda t, h, w: t.mT.unflatten(-1, (w, h)),
    "sides-exchanged: view": lambda t, h, w: t.permute(0, 2, 1).contiguous().view(t.size(0), -1, w, h),
    "map-transposed": lambda t, h, w: t.mT.unflatten(-1, (h, w)).mT,
    "map-transposed: permute": lambda t, h, w: t.reshape(t.size(0), h, w, -1).permute(0, 3, 2, 1),
    "column-by-column": _map_columns,
    "column-by-column: view": lambda t, h, w: t.mT.unflatten(-1, (w, h)).mT,
    "reshape-with-sides-exchanged": lambda t, h, w: t.view(t.size(0), t.size(2), w, h),
    "channels-last": lambda t, h, w: t.view(t.size(0), h, w, t.size(2)),
    "channels-last-sides-exchanged": lambda t, h, w: t.unflatten(1, (w, h)),
    "channels-in-the-middle": lambda t, h, w: t.unflatten(1, (h, w)).permute(0, 2, 3, 1),
    "channels-in-the-middle: rows": lambda t, h, w: t.unflatten(1, (h, w)).transpose(2, 3),
    "not-cut": lambda t, h, w: t.mT,
    "not-cut-and-widened": lambda t, h, w: t.mT.unsqueeze(2),
    "cut-without-order": lambda t, h, w: t.view(t.size(0), h, t.size(2), w).transpose(1, 2),
    "assumes-a-square": _map_square,
    "height-twice": lambda t, h, w: t.mT.reshape(t.size(0), t.size(2), h, h),
    "batch-mixed": lambda t, h, w: t.permute(2, 0, 1).reshape(t.size(0), t.size(2), h, w),
    "upside-down": lambda t, h, w: t.mT.unflatten(-1, (h, w)).flip(-2),
    "mirrored": lambda t, h, w: t.mT.unflatten(-1, (h, w)).flip(-1),
    "first-image-only": lambda t, h, w: t[0].T.reshape(-1, h, w),
    "squeezed": lambda t, h, w: t.mT.unflatten(-1, (h, w)).squeeze(),
    "cuts-gradient": lambda t, h, w: t.detach().mT.unflatten(-1, (h, w)),
}

# -------------------------------------------------------------------------------------------- patchify


def checked(cut):
    """``cut`` after a test of both sides."""

    @functools.wraps(cut)
    def patchify(x, patch):
        if any(side % patch != 0 for side in x.shape[-2:]):
            raise ValueError(f"{tuple(x.shape[-2:])} cannot be cut into {patch} × {patch}")
        return cut(x, patch)

    return patchify


@checked
def patches_in_loops(x, p):
    tokens = []
    for top in range(0, x.size(2), p):
        for left in range(0, x.size(3), p):
            tokens.append(x[:, :, top : top + p, left : left + p].reshape(x.size(0), -1))
    return torch.stack(tokens, dim=1)


@checked
def patches_written(x, p):
    rows, columns = x.shape[2] // p, x.shape[3] // p
    out = torch.zeros(x.shape[0], rows * columns, x.shape[1] * p * p)
    for n in range(rows * columns):
        i, j = divmod(n, columns)
        out[:, n] = x[:, :, i * p : i * p + p, j * p : j * p + p].flatten(1)
    return out


@checked
def patches_reshaped(x, p):
    b, c, h, w = x.shape
    x = x.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).contiguous()
    return x.view(b, -1, c * p * p)


@checked
def patches_by_einsum(x, p):
    b, c, h, w = x.shape
    six = torch.einsum("bchpwq->bhwcpq", x.reshape(b, c, h // p, p, w // p, p))
    return six.reshape(b, h * w // p**2, c * p**2)


@checked
def patches_by_convolution(x, p):
    """A convolution whose kernels each pick one number of the patch."""
    size = x.shape[1] * p**2
    layer = nn.Conv2d(x.shape[1], size, kernel_size=p, stride=p, bias=False)
    layer.weight = nn.Parameter(torch.eye(size).view(size, x.shape[1], p, p))
    return layer(x).flatten(2).transpose(1, 2)


@checked
def patches_of_chunks(x, p):
    rows = x.split(p, dim=2)
    return torch.stack([piece.flatten(1) for row in rows for piece in row.split(p, dim=3)], 1)


def patches_by_error(x, patch):
    """Lets the reshape find out, and says it in other words."""
    b, c, h, w = x.shape
    try:
        return x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).permute(0, 2, 4, 1, 3, 5).reshape(
            b, h * w // patch**2, c * patch**2
        )  # fmt: skip
    except RuntimeError as error:
        raise ValueError("sides must be multiples of the patch") from error


class NoPatches(ValueError):
    pass


def patches_own_error(x, patch):
    (h, over), (w, also) = divmod(x.size(-2), patch), divmod(x.size(-1), patch)
    if over or also:
        raise NoPatches(h, w)
    return F.unfold(x, patch, stride=patch).mT


PATCHIFY_RIGHT = {
    "loops": patches_in_loops,
    "written": patches_written,
    "reshape": patches_reshaped,
    "einsum": patches_by_einsum,
    "convolution": patches_by_convolution,
    "chunks": patches_of_chunks,
    "the reshape's error": patches_by_error,
    "an error of its own": patches_own_error,
    "unfold": checked(lambda x, p: nn.Unfold(p, stride=p)(x).permute(0, 2, 1)),
    "unfold twice": checked(
        lambda x, p: x.unfold(2, p, p).unfold(3, p, p).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    ),
    "pixel unshuffle": checked(lambda x, p: nn.PixelUnshuffle(p)(x).flatten(2).mT),
    "partial": functools.partial(lambda cut, x, p: cut(x, p), patches_reshaped),
}


def _unchecked(x, p):
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, (h // p) * (w // p), c * p * p)


def _six(*order):
    """The usual reshape, with the dimensions in another order."""

    @checked
    def patchify(x, p):
        b, c, h, w = x.shape
        x = x.view(b, c, h // p, p, w // p, p).permute(*order)
        return x.reshape(b, (h // p) * (w // p), -1)

    return patchify


def _asserts(x, patch):
    assert x.shape[2] % patch == 0 and x.shape[3] % patch == 0, "patch must divide the image"
    return _unchecked(x, patch)


def _asserts_each(x, patch):
    for side in x.shape[2:]:
        assert side % patch == 0
    return F.unfold(x, patch, stride=patch).mT


def _only(ask, cut=_unchecked):
    def patchify(x, p):
        if ask(x.size(2), x.size(3), p):
            raise ValueError("patch does not fit")
        return cut(x, p)

    return patchify


def _returns_none_there(x, p):
    if x.size(2) % p or x.size(3) % p:
        return None
    return _unchecked(x, p)


def _prints(x, p):
    if x.size(2) % p or x.size(3) % p:
        return "ValueError"
    return _unchecked(x, p)


def _runtime_error(x, p):
    if x.size(2) % p or x.size(3) % p:
        raise RuntimeError("patch does not fit")
    return _unchecked(x, p)


PATCHIFY_WRONG = {
    "reshape-for-permute": checked(lambda x, p: x.view(len(x), -1, x.size(1) * p * p)),
    "reshape-for-permute: in two steps": _six(0, 1, 2, 3, 4, 5),
    "cut-across-rows": checked(
        lambda x, p: (
            x.view(*x.shape[:2], x.size(2) // p, x.size(3) // p, p, p).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
        ).flatten(2)
    ),
    "channels-last": _six(0, 2, 4, 3, 5, 1),
    "channels-last: of a map": checked(
        lambda x, p: torch.stack(
            [q.permute(0, 2, 3, 1).flatten(1) for r in x.split(p, 2) for q in r.split(p, 3)], 1
        )
    ),
    "channels-in-the-middle": _six(0, 2, 4, 3, 1, 5),
    "patches-column-by-column": _six(0, 4, 2, 1, 3, 5),
    "patches-column-by-column: loops": checked(
        lambda x, p: torch.stack([q.flatten(1) for c in x.split(p, 3) for q in c.split(p, 2)], 1)
    ),
    "pixels-column-by-column": _six(0, 2, 4, 1, 5, 3),
    "all-column-by-column": checked(lambda x, p: F.unfold(x.mT.contiguous(), p, stride=p).mT),
    "patches-of-one-channel": checked(
        lambda x, p: x.unfold(2, p, p).unfold(3, p, p).reshape(len(x), -1, x.size(1) * p * p)
    ),
    "every-nth-pixel": checked(
        lambda x, p: torch.stack(
            [
                x[:, :, i :: x.size(2) // p, j :: x.size(3) // p].flatten(1)
                for i in range(x.size(2) // p)
                for j in range(x.size(3) // p)
            ],
            1,
        )
    ),
    "overlapping": checked(lambda x, p: nn.Unfold(p)(x).mT),
    "not-transposed": checked(lambda x, p: nn.Unfold(p, stride=p)(x)),
    "reshape-of-columns": checked(lambda x, p: F.unfold(x, p, stride=p).view(len(x), -1, x.size(1) * p * p)),
    "batch-mixed": checked(
        lambda x, p: F.unfold(x, p, stride=p).permute(2, 0, 1).reshape(len(x), -1, x.size(1) * p * p)
    ),
    "batch-joined": checked(lambda x, p: F.unfold(x, p, stride=p).mT.reshape(-1, x.size(1) * p * p)),
    "grid-not-joined": checked(lambda x, p: F.pixel_unshuffle(x, p).permute(0, 2, 3, 1)),
    "patch-not-flattened": checked(
        lambda x, p: torch.stack([q for r in x.split(p, 2) for q in r.split(p, 3)], 1)
    ),
    "first-image-only": checked(lambda x, p: F.unfold(x[:1], p, stride=p).mT),
    "patch-averaged": checked(lambda x, p: nn.AvgPool2d(p)(x).flatten(2).mT),
    "pixels-dropped": lambda x, p: F.unfold(x, p, stride=p).mT,
    "pixels-dropped: cut": lambda x, p: _unchecked(
        x[..., : x.size(2) // p * p, : x.size(3) // p * p].contiguous(), p
    ),
    "pixels-dropped: windows": lambda x, p: (
        x.unfold(2, p, p).unfold(3, p, p).permute(0, 2, 3, 1, 4, 5).flatten(1, 2).flatten(2)
    ),
    "no-test": _unchecked,
    "no-test: pixel unshuffle": lambda x, p: nn.PixelUnshuffle(p)(x).flatten(2).mT,
    "only-height-asked": _only(lambda h, w, p: h % p),
    "only-width-asked": _only(lambda h, w, p: w % p),
    "only-width-asked: unfold": _only(lambda h, w, p: w % p, lambda x, p: F.unfold(x, p, stride=p).mT),
    "both-or-none": _only(lambda h, w, p: h % p and w % p),
    "area-asked": _only(lambda h, w, p: (h * w) % (p * p)),
    "area-asked: p": _only(lambda h, w, p: (h * w) % p),
    "sum-asked": _only(lambda h, w, p: (h + w) % p),
    "padded": lambda x, p: _unchecked(F.pad(x, (0, (p - x.size(3) % p) % p, 0, (p - x.size(2) % p) % p)), p),
    "assertion": _asserts,
    "assertion: each side": _asserts_each,
    "none-in-place-of-an-error": _returns_none_there,
    "word-in-place-of-an-error": _prints,
    "wrong-error": _runtime_error,
    "raises": _only(lambda h, w, p: h % p == 0 and w % p == 0),
    "raises: squares alone": _only(lambda h, w, p: h != w or h % p),
}

# -------------------------------------------------------------------------------------- hybrid-forward


def hybrid_steps(x, backbone, positions, blocks, head):
    features = backbone(x)
    batch, channels, height, width = features.shape
    tokens = features.view(batch, channels, height * width).permute(0, 2, 1)
    tokens = tokens + positions
    for block in blocks:
        tokens, _weights = block(tokens)
    return head(tokens.mean(dim=1))


def hybrid_in_place(x, backbone, positions, blocks, head):
    tokens = backbone(x).permute(0, 2, 3, 1).flatten(1, 2)
    tokens += positions
    for block in blocks:
        tokens = block(tokens)[0]
    return head(tokens.sum(1) / tokens.size(1))


def hybrid_folded(x, backbone, positions, blocks, head):
    tokens = functools.reduce(lambda t, block: block(t)[0], blocks, backbone(x).flatten(2).mT + positions)
    return head(torch.mean(tokens, -2))


def hybrid_counted(x, backbone, positions, blocks, head):
    z = torch.einsum("bchw->bhwc", backbone(x)).flatten(1, 2) + positions
    for i in range(len(blocks)):
        z, *_ = blocks[i](z)
    return head(torch.einsum("bnc->bc", z) / z.shape[1])


def hybrid_image_by_image(x, backbone, positions, blocks, head):
    logits = []
    for image in x.split(1):
        tokens = backbone(image).flatten(2).transpose(1, 2) + positions
        for block in blocks:
            tokens, _ = block(tokens)
        logits.append(head(tokens.mean(1)))
    return torch.cat(logits)


def hybrid_positions_as_map(x, backbone, positions, blocks, head):
    """The same positions, laid over the map before it is read."""
    features = backbone(x)
    features = features + positions.transpose(1, 2).reshape(1, *features.shape[1:])
    tokens = tokens_gathered(features)
    for block in blocks:
        tokens = block(tokens)[0]
    return head(F.adaptive_avg_pool1d(tokens.mT, 1).squeeze(-1))


def hybrid_wrapped(x, backbone, positions, blocks, head):
    """``nn.Sequential``, with each block wrapped so that it returns its tokens alone."""

    class First(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, tokens):
            return self.block(tokens)[0]

    tokens = backbone(x).flatten(2).mT + positions.expand(len(x), -1, -1)
    return head(nn.Sequential(*map(First, blocks))(tokens).mean(1))


def hybrid_recursive(x, backbone, positions, blocks, head):
    def through(tokens, rest):
        return through(rest[0](tokens)[0], rest[1:]) if rest else tokens

    return head(through(backbone(x).flatten(2).mT + positions, [*blocks]).mean(1))


def hybrid_late_mean(x, backbone, positions, blocks, head):
    """Keeps a dimension of size 1 through the head."""
    tokens = tokens_of_rows(backbone(x)).add(positions)
    for block in iter(blocks):
        tokens, _ = block(tokens)
    return head(tokens.mean(1, keepdim=True)).squeeze(1)


class Hybrid(nn.Module):
    def forward(self, *parts):
        return hybrid_steps(*parts)


HYBRID_RIGHT = {
    "steps": hybrid_steps,
    "in place": hybrid_in_place,
    "reduce": hybrid_folded,
    "counted": hybrid_counted,
    "image by image": hybrid_image_by_image,
    "positions as a map": hybrid_positions_as_map,
    "wrapped": hybrid_wrapped,
    "recursive": hybrid_recursive,
    "late mean": hybrid_late_mean,
    "module": Hybrid(),
    "partial": functools.partial(lambda flag, *parts: hybrid_folded(*parts), None),
    "lambda": lambda x, f, p, bs, g: g(
        functools.reduce(lambda t, b: operator.itemgetter(0)(b(t)), bs, tokens_of_channels(f(x)) + p).mean(1)
    ),
}


def _hybrid(**changes):
    """A learner's forward, with one line changed."""
    lines = {
        "tokens": lambda f: f.flatten(2).transpose(1, 2),
        "place": lambda t, p: t + p,
        "loop": lambda t, blocks, p: functools.reduce(lambda t, block: block(t)[0], blocks, t),
        "end": lambda t, head, p: head(t.mean(dim=1)),
        **changes,
    }

    def forward(x, backbone, positions, blocks, head):
        tokens = lines["place"](lines["tokens"](backbone(x)), positions)
        return lines["end"](lines["loop"](tokens, blocks, positions), head, positions)

    return forward


def _tuple_on(x, backbone, positions, blocks, head):
    x = backbone(x).flatten(2).transpose(1, 2) + positions
    for block in blocks:
        x = block(x)
    return head(x.mean(1))


def _weights_on(x, backbone, positions, blocks, head):
    x = backbone(x).flatten(2).transpose(1, 2) + positions
    for block in blocks:
        _weights, x = block(x)
    return head(x.mean(1))


def _returns_in_the_loop(x, backbone, positions, blocks, head):
    x = backbone(x).flatten(2).transpose(1, 2) + positions
    for block in blocks:
        x, _ = block(x)
        return head(x.mean(1))


def _reads_the_same(x, backbone, positions, blocks, head):
    tokens = backbone(x).flatten(2).transpose(1, 2) + positions
    for block in blocks:
        out, _ = block(tokens)
    return head(out.mean(1))


def _adds_each_time(x, backbone, positions, blocks, head):
    tokens = backbone(x).flatten(2).transpose(1, 2)
    for block in blocks:
        tokens, _ = block(tokens)
        tokens = tokens + positions
    return head(tokens.mean(1))


def _forgets_the_backbone(x, backbone, positions, blocks, head):
    tokens = x.flatten(2).transpose(1, 2) + positions
    for block in blocks:
        tokens, _ = block(tokens)
    return head(tokens.mean(1))


def _without_gradient(x, backbone, positions, blocks, head):
    with torch.no_grad():
        features = backbone(x)
    return hybrid_steps(features, lambda f: f, positions, blocks, head)


def _keeps_maps(x, backbone, positions, blocks, head):
    tokens, maps = backbone(x).flatten(2).mT + positions, []
    for block in blocks:
        tokens, weights = block(tokens)
        maps += [weights]
    return head(tokens.mean(1)), maps


HYBRID_WRONG = {
    "positions-forgotten": _hybrid(place=lambda t, p: t),
    "positions-after-the-blocks": _hybrid(place=lambda t, p: t, end=lambda t, head, p: head((t + p).mean(1))),
    "positions-after-each-block": _adds_each_time,
    "positions-before-each-block": _hybrid(
        place=lambda t, p: t, loop=lambda t, bs, p: functools.reduce(lambda t, b: b(t + p)[0], bs, t)
    ),
    "positions-twice": _hybrid(place=lambda t, p: t + p + p),
    "positions-multiplied": _hybrid(place=torch.mul),
    "positions-alone": _hybrid(place=lambda t, p: torch.zeros_like(t) + p),
    "tokens-column-by-column": _hybrid(tokens=_tokens_columns),
    "reshape-for-transpose": _hybrid(tokens=lambda f: f.view(f.size(0), -1, f.size(1))),
    "channels-as-tokens": _hybrid(tokens=lambda f: f.flatten(2)),
    "no-backbone": _forgets_the_backbone,
    "only-first-block": _returns_in_the_loop,
    "only-first-block: indexed": _hybrid(loop=lambda t, bs, p: bs[0](t)[0]),
    "only-last-block": _reads_the_same,
    "only-last-block: indexed": _hybrid(loop=lambda t, bs, p: bs[-1](t)[0]),
    "no-blocks": _hybrid(loop=lambda t, bs, p: t),
    "blocks-backwards": _hybrid(
        loop=lambda t, bs, p: functools.reduce(lambda t, b: b(t)[0], reversed(list(bs)), t)
    ),
    "residual-added": _hybrid(loop=lambda t, bs, p: functools.reduce(lambda t, b: t + b(t)[0], bs, t)),
    "weights-for-tokens": _weights_on,
    "pair-passed-on": _tuple_on,
    "pair-passed-on: sequential": _hybrid(loop=lambda t, bs, p: nn.Sequential(*bs)(t)),
    "pair-passed-on: sequential, then taken apart": _hybrid(loop=lambda t, bs, p: nn.Sequential(*bs)(t)[0]),
    "blocks-called": _hybrid(loop=lambda t, bs, p: bs(t)),
    "sum-for-mean": _hybrid(end=lambda t, head, p: head(t.sum(dim=1))),
    "max-for-mean": _hybrid(end=lambda t, head, p: head(t.max(dim=1).values)),
    "first-token": _hybrid(end=lambda t, head, p: head(t[:, 0, :])),
    "last-token": _hybrid(end=lambda t, head, p: head(t[:, -1])),
    "mean-over-channels": _hybrid(end=lambda t, head, p: head(t.mean(dim=2))),
    "mean-over-the-batch": _hybrid(end=lambda t, head, p: head(t.mean(dim=0))),
    "head-before-mean": _hybrid(end=lambda t, head, p: head(t).mean(dim=1)),
    "logits-of-every-token": _hybrid(end=lambda t, head, p: head(t)),
    "tokens-side-by-side": _hybrid(end=lambda t, head, p: head(t.reshape(len(t), -1))),
    "mean-keeps-a-dimension": _hybrid(end=lambda t, head, p: head(t.mean(1, True))),
    "no-head": _hybrid(end=lambda t, head, p: t.mean(1)),
    "softmax-at-the-end": _hybrid(end=lambda t, head, p: F.softmax(head(t.mean(1)), dim=1)),
    "class-returned": _hybrid(end=lambda t, head, p: head(t.mean(1)).argmax(1)),
    "returns-more": _keeps_maps,
    "cuts-gradient": _without_gradient,
}

RIGHT = {
    "to-tokens": TOKENS_RIGHT,
    "to-feature-map": MAP_RIGHT,
    "patchify": PATCHIFY_RIGHT,
    "hybrid-forward": HYBRID_RIGHT,
}
WRONG = {
    "to-tokens": TOKENS_WRONG,
    "to-feature-map": MAP_WRONG,
    "patchify": PATCHIFY_WRONG,
    "hybrid-forward": HYBRID_WRONG,
}
