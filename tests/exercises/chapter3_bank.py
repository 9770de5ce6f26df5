"""Chapter 3: right answers in many hands, and wrong ones as learners write them.

The package keeps a bank of wrong answers too, for diagnosis; these are written independently of it.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

import attn_course

# ----------------------------------------------------------------------------------- channel-attention


def channel_functional(x, w1, w2):
    """As the document's module, one call after the other."""
    avg = F.adaptive_avg_pool2d(x, 1).flatten(1)
    top = F.adaptive_max_pool2d(x, 1).flatten(1)
    avg = F.linear(F.relu(F.linear(avg, w1)), w2)
    top = F.linear(F.relu(F.linear(top, w1)), w2)
    return torch.sigmoid(avg + top).unsqueeze(-1).unsqueeze(-1)


def channel_convolutions(x, w1, w2):
    def mlp(s):
        return F.conv2d(F.conv2d(s, w1[..., None, None]).relu(), w2[..., None, None])

    return (mlp(x.mean((2, 3), True)) + mlp(x.amax((2, 3), True))).sigmoid()


def channel_modules(x, w1, w2):
    """Layers of its own, with copies of the weights."""
    hidden, channels = w1.shape
    fc = nn.Sequential(
        nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
    )
    fc[0].weight.data = w1.view(hidden, channels, 1, 1)
    fc[2].weight.data = w2.view(channels, hidden, 1, 1)
    pooled = nn.AdaptiveAvgPool2d(1)(x), nn.AdaptiveMaxPool2d(1)(x)
    return nn.Sigmoid()(fc(pooled[0]) + fc(pooled[1]))


def channel_linear_layers(x, w1, w2):
    first = nn.Linear(w1.size(1), w1.size(0), bias=False)
    second = nn.Linear(w2.size(1), w2.size(0), bias=False)
    first.weight, second.weight = nn.Parameter(w1), nn.Parameter(w2)
    b, c = x.shape[:2]
    mean, largest = x.view(b, c, -1).mean(-1), x.view(b, c, -1).max(-1).values
    out = second(torch.relu(first(mean))) + second(torch.relu(first(largest)))
    return torch.sigmoid(out).reshape(b, c, 1, 1)


def channel_einsum(x, w1, w2):
    s = torch.stack([x.mean((-2, -1)), x.amax((-2, -1))])
    hidden = torch.einsum("sbc,hc->sbh", s, w1).clamp(min=0)
    return torch.einsum("sbh,ch->bc", hidden, w2).sigmoid()[:, :, None, None]


def channel_one_product(x, w1, w2):
    """ReLU first, then the sum, then the second layer once: it is linear."""
    flat = x.flatten(2)
    hidden = F.relu(flat.mean(2) @ w1.t()) + F.relu(flat.max(2)[0] @ w1.t())
    return (1 / (1 + torch.exp(-(hidden @ w2.t()))))[:, :, None, None]


def channel_columns(x, w1, w2):
    """Vectors as columns."""
    s = torch.stack([x.mean((2, 3)), x.flatten(2).max(2).values], dim=2)
    return torch.sigmoid((w2 @ torch.relu(w1 @ s)).sum(2)).view(*x.shape[:2], 1, 1)


def channel_two_maxima(x, w1, w2):
    mean = x.sum(dim=[2, 3]) / (x.size(2) * x.size(3))
    largest = x.max(dim=3).values.max(dim=2).values
    rows = torch.cat([mean, largest]) @ w1.T
    a, m = (rows.relu() @ w2.T).chunk(2)
    return torch.sigmoid(a + m)[..., None, None]


def channel_loops(x, w1, w2):
    images = []
    for image in x:
        mean = torch.stack([channel.mean() for channel in image])
        largest = torch.stack([channel.max() for channel in image])
        scores = 0
        for s in (mean, largest):
            hidden = [torch.relu((row * s).sum()) for row in w1]
            scores = scores + torch.stack(
                [sum(w * h for w, h in zip(row, hidden, strict=True)) for row in w2]
            )
        images.append(torch.sigmoid(scores))
    return torch.stack(images)[:, :, None, None]


def channel_max_pool(x, w1, w2):
    size = x.shape[-2:]
    pooled = torch.cat([F.avg_pool2d(x, size), F.max_pool2d(x, size)], dim=-1)  # (B, C, 1, 2)
    scores = torch.tensordot(w2, torch.tensordot(w1, pooled, ([1], [1])).relu(), 1)  # (C, B, 1, 2)
    return torch.sigmoid(scores.sum(-1, keepdim=True)).transpose(0, 1)


def channel_channels_last(x, w1, w2):
    y = x.permute(0, 2, 3, 1)
    mlp = nn.Sequential()
    mlp.add_module("0", nn.Linear(w1.shape[1], w1.shape[0], bias=False))
    mlp.add_module("1", nn.ReLU())
    mlp.add_module("2", nn.Linear(w2.shape[1], w2.shape[0], bias=False))
    mlp.load_state_dict({"0.weight": w1, "2.weight": w2})
    gate = mlp(y.mean(dim=(1, 2), keepdim=True)) + mlp(y.amax(dim=(1, 2), keepdim=True))
    return gate.sigmoid().permute(0, 3, 1, 2)


def channel_of_the_package(x, w1, w2):
    module = attn_course.ChannelAttention(w1.shape[1], max(1, w1.shape[1] // w1.shape[0]))
    with torch.no_grad():
        module.fc[0].weight.copy_(w1)
        module.fc[2].weight.copy_(w2)
    return module(x, need_weights=True)[1]


def channel_in_float64(x, w1, w2):
    return channel_functional(x.double(), w1.double(), w2.double()).float()


class Channel(nn.Module):
    def forward(self, features, squeeze, excite):
        return channel_columns(features, squeeze, excite)


@torch.jit.script
def channel_scripted(x, w1, w2):
    a = torch.relu(x.mean([2, 3]) @ w1.t()) @ w2.t()
    m = torch.relu(x.amax([2, 3]) @ w1.t()) @ w2.t()
    return torch.sigmoid(a + m).unsqueeze(2).unsqueeze(3)


def channel_vmapped(x, w1, w2):
    def one(image):
        mlp = lambda s: w2 @ F.relu(w1 @ s)  # noqa: E731
        return torch.sigmoid(mlp(image.mean((1, 2))) + mlp(image.amax((1, 2))))[:, None, None]

    return torch.vmap(one)(x)


def channel_other_names(x, w1, w2):
    """The maximum as the last quantile, the ReLU as a choice, the sigmoid by tanh."""
    table = x.flatten(2)
    s = torch.stack([table.nanmean(2), table.quantile(1.0, dim=2)])
    hidden = s @ w1.mT
    z = (torch.where(hidden > 0, hidden, torch.zeros_like(hidden)) @ w2.mT).sum(0)
    return (0.5 * (torch.tanh(z / 2) + 1)).reshape(*z.shape, 1, 1)


def channel_weights_through_numpy(x, w1, w2):
    return channel_einsum(x, torch.tensor(w1.numpy()), torch.tensor(w2.tolist()))


CHANNEL_RIGHT = {
    "functional": channel_functional,
    "1 x 1 convolutions": channel_convolutions,
    "modules with copied weights": channel_modules,
    "linear layers with parameters": channel_linear_layers,
    "einsum": channel_einsum,
    "second layer once": channel_one_product,
    "columns": channel_columns,
    "maximum in two steps": channel_two_maxima,
    "loops": channel_loops,
    "pooling over the whole map": channel_max_pool,
    "channels last": channel_channels_last,
    "float64 inside": channel_in_float64,
    "module": Channel(),
    "scripted": channel_scripted,
    "vmap": channel_vmapped,
    "other names": channel_other_names,
    "weights through numpy": channel_weights_through_numpy,
    "compiled": torch.compile(channel_functional, backend="eager", fullgraph=True),
    "lambda": lambda m, a, b: channel_einsum(m, a, b),
    "partial": functools.partial(lambda flag, *args: channel_columns(*args), True),
    "package": channel_of_the_package,
}


def _channel(
    pool=lambda x: (F.adaptive_avg_pool2d(x, 1).flatten(1), F.adaptive_max_pool2d(x, 1).flatten(1)),
    mlp=lambda s, w1, w2: F.linear(F.relu(F.linear(s, w1)), w2),
    end=lambda a, m: torch.sigmoid(a + m),
    shape=lambda w, x: w.unsqueeze(2).unsqueeze(3),
):
    """Channel attention with one thing wrong, in the words of a learner."""

    def attend(x, w1, w2):
        avg, top = pool(x)
        return shape(end(mlp(avg, w1, w2), mlp(top, w1, w2)), x)

    return attend


def _pools_first(x, w1, w2):
    pooled = F.adaptive_avg_pool2d(x, 1) + F.adaptive_max_pool2d(x, 1)
    hidden = torch.einsum("oc,bcij->boij", w1, pooled).relu()
    return torch.einsum("oc,bcij->boij", w2, hidden).sigmoid()


def _concatenated(x, w1, w2):
    pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=-1)
    return torch.sigmoid(F.linear(F.relu(F.linear(pooled, w1)), w2))[:, :, None, None]


def _concatenated_maps(x, w1, w2):
    pooled = torch.cat([F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)], dim=1)
    hidden = F.relu(F.conv2d(pooled, w1[:, :, None, None]))
    return torch.sigmoid(F.conv2d(hidden, w2[:, :, None, None]))


def _zero_start(x, w1, w2):
    top = torch.zeros(x.shape[:2])
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            top = torch.maximum(top, x[:, :, i, j])
    return _channel(pool=lambda x: (x.mean((2, 3)), top))(x, w1, w2)


def _softmax_of_maps(x, w1, w2):
    return F.softmax(_channel(end=lambda a, m: a + m)(x, w1, w2), dim=1)


def _softmax_last(x, w1, w2):
    return F.softmax(_channel(end=lambda a, m: a + m)(x, w1, w2), dim=-1)


CHANNEL_WRONG = {
    "average-only": _channel(end=lambda a, m: a.sigmoid()),
    "max-only": _channel(end=lambda a, m: m.sigmoid()),
    "sigmoid-before-the-sum": _channel(end=lambda a, m: F.sigmoid(a) + F.sigmoid(m)),
    "mean-of-two-gates": _channel(end=lambda a, m: 0.5 * F.sigmoid(a) + 0.5 * F.sigmoid(m)),
    "product-of-two-gates": _channel(end=lambda a, m: F.sigmoid(a) * F.sigmoid(m)),
    "mean-of-branches": _channel(end=lambda a, m: torch.stack([a, m]).mean(0).sigmoid()),
    "largest-of-branches": _channel(end=lambda a, m: torch.stack([a, m]).amax(0).sigmoid()),
    "summaries-added": _pools_first,
    "relu-missing": _channel(mlp=lambda s, w1, w2: F.linear(F.linear(s, w1), w2)),
    "relu-after-the-second-layer": _channel(mlp=lambda s, w1, w2: F.linear(F.linear(s, w1), w2).relu()),
    "relu-after-both-layers": _channel(mlp=lambda s, w1, w2: F.linear(F.linear(s, w1).relu(), w2).relu()),
    "other-activation: sigmoid": _channel(mlp=lambda s, w1, w2: F.linear(F.linear(s, w1).sigmoid(), w2)),
    "other-activation: gelu": _channel(mlp=lambda s, w1, w2: F.linear(F.gelu(F.linear(s, w1)), w2)),
    "no-sigmoid": _channel(end=lambda a, m: a + m),
    "softmax": _softmax_of_maps,
    "softmax-of-one-number": _softmax_last,
    "sum-instead-of-average": _channel(pool=lambda x: (x.flatten(2).sum(-1), x.flatten(2).amax(-1))),
    "min-instead-of-max": _channel(pool=lambda x: (x.mean((2, 3)), -F.adaptive_max_pool2d(-x, 1).flatten(1))),
    "max-not-below-zero": _zero_start,
    "max-not-below-zero: padded": _channel(
        pool=lambda x: (x.mean((2, 3)), F.pad(x, (1, 1, 1, 1)).amax((2, 3)))
    ),
    "max-over-one-side-only": _channel(pool=lambda x: (x.mean((2, 3)), x.max(2)[0].mean(-1))),
    "max-over-the-channels": _channel(pool=lambda x: (x.mean((2, 3)), x.max(1)[0].flatten(1))),
    "place-of-the-maximum": _channel(
        pool=lambda x: (x.mean((2, 3)), x.flatten(2).max(2).indices.float()),
    ),
    "pooled-over-the-channels": _channel(pool=lambda x: (x.mean(1).flatten(1), x.max(1)[0].flatten(1))),
    "pooled-over-the-batch": _channel(
        pool=lambda x: (x.mean((0, 2, 3)).unsqueeze(0), x.amax((0, 2, 3)).unsqueeze(0))
    ),
    "weights-exchanged": _channel(mlp=lambda s, w1, w2: torch.relu(s @ w2) @ w1),
    "weights-not-turned": _channel(mlp=lambda s, w1, w2: torch.relu(s @ w1) @ w2),
    "summaries-not-flattened": _channel(
        pool=lambda x: (F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)), shape=lambda w, x: w
    ),
    "summaries-concatenated": _concatenated,
    "summaries-concatenated: as maps": _concatenated_maps,
    "squeeze-drops-the-batch": _channel(
        pool=lambda x: (F.adaptive_avg_pool2d(x, 1).squeeze(), F.adaptive_max_pool2d(x, 1).squeeze()),
        shape=lambda w, x: w.unsqueeze(-1).unsqueeze(-1),
    ),
    "returns-the-map": _channel(shape=lambda w, x: x * w.view(*w.shape, 1, 1)),
    "no-room-for-pixels": _channel(shape=lambda w, x: w),
    "spread-over-the-map": _channel(shape=lambda w, x: w[:, :, None, None].repeat(1, 1, *x.shape[2:])),
    "inverted": _channel(end=lambda a, m: 1 / (1 + torch.exp(a + m))),
}

# ----------------------------------------------------------------------------------- spatial-attention


def spatial_functional(x, weight):
    avg = torch.mean(x, dim=1, keepdim=True)
    top, _ = torch.max(x, dim=1, keepdim=True)
    y = torch.cat([avg, top], dim=1)
    return torch.sigmoid(F.conv2d(y, weight, padding="same"))


def spatial_module(x, weight):
    k = weight.shape[2]
    conv = nn.Conv2d(2, 1, k, padding=k // 2, bias=False)
    conv.weight.data.copy_(weight)
    return nn.Sigmoid()(conv(torch.stack([x.mean(1), x.amax(1)], dim=1)))


def spatial_module_with_bias(x, weight):
    conv = nn.Conv2d(2, 1, weight.shape[-1], padding="same")
    with torch.no_grad():
        conv.weight.copy_(weight)
        conv.bias.zero_()
    return conv(torch.cat([x.mean(1, True), x.max(1, True)[0]], 1)).sigmoid()


def spatial_unfold(x, weight):
    """A convolution as a product with all neighbourhoods."""
    b, _, h, w = x.shape
    k = weight.shape[-1]
    maps = torch.stack((x.mean(1), x.amax(1)), 1)
    columns = F.unfold(maps, k, padding=k // 2)  # (B, 2 k k, H W)
    return torch.sigmoid(weight.reshape(1, -1) @ columns).view(b, 1, h, w)


def spatial_windows(x, weight):
    k = weight.size(-1)
    maps = F.pad(torch.stack((x.mean(1), x.amax(1)), 1), (k // 2,) * 4)
    windows = maps.unfold(2, k, 1).unfold(3, k, 1)  # (B, 2, H, W, k, k)
    return torch.einsum("bchwij,ocij->bohw", windows, weight).sigmoid()


def spatial_shifts(x, weight):
    """One neighbour at a time, over the whole map."""
    k, (h, w) = weight.shape[-1], x.shape[2:]
    maps = F.pad(torch.cat([x.mean(1, True), x.amax(1, True)], 1), [k // 2] * 4)
    total = 0
    for i in range(k):
        for j in range(k):
            total = total + (maps[:, :, i : i + h, j : j + w] * weight[:, :, i, j, None, None]).sum(1, True)
    return 1 / (1 + (-total).exp())


def spatial_loops(x, weight):
    b, c, h, w = x.shape
    r = weight.shape[-1] // 2
    out = torch.zeros(b, 1, h, w)
    for n in range(b):
        mean, largest = sum(x[n, i] for i in range(c)) / c, functools.reduce(torch.maximum, x[n])
        for i in range(h):
            for j in range(w):
                total = torch.zeros(())
                for di in range(-r, r + 1):
                    for dj in range(-r, r + 1):
                        if 0 <= i + di < h and 0 <= j + dj < w:
                            total = total + weight[0, 0, di + r, dj + r] * mean[i + di, j + dj]
                            total = total + weight[0, 1, di + r, dj + r] * largest[i + di, j + dj]
                out[n, 0, i, j] = torch.sigmoid(total)
    return out


def spatial_two_convolutions(x, weight):
    pad = (weight.shape[-1] - 1) // 2
    mean, largest = x.mean(1, keepdim=True), x.amax(1, keepdim=True)
    return (
        F.conv2d(mean, weight[:, :1], padding=pad) + F.conv2d(largest, weight[:, 1:], padding=pad)
    ).sigmoid()


def spatial_padded_by_hand(x, weight):
    k = weight.shape[-1]
    maps = nn.ZeroPad2d(k // 2)(torch.cat((x.sum(1, True) / x.shape[1], x.sort(1).values[:, -1:]), 1))
    return torch.sigmoid(F.conv2d(maps, weight))


def spatial_transposed_convolution(x, weight):
    """The textbook's convolution, with the kernel turned round beforehand."""
    maps = torch.stack([x.mean(1), x.amax(1)], 1)
    turned = weight.flip(2, 3).transpose(0, 1)
    return torch.sigmoid(F.conv_transpose2d(maps, turned, padding=weight.shape[-1] // 2))


def spatial_in_float64(x, weight):
    return spatial_functional(x.double(), weight.double()).float()


def spatial_of_the_package(x, weight):
    module = attn_course.SpatialAttention(weight.shape[-1])
    module.conv.weight = nn.Parameter(weight)
    return module(x, need_weights=True)[1]


def spatial_pooled(x, weight):
    """The channels as a line to pool over."""
    b, c, h, w = x.shape
    line = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
    maps = torch.cat([F.avg_pool1d(line, c), F.max_pool1d(line, c)], -1)  # (B, H W, 2)
    maps = maps.transpose(1, 2).reshape(b, 2, h, w)
    return torch.sigmoid(torch.conv2d(maps, weight, None, 1, weight.shape[-1] // 2))


def spatial_fourier(x, weight):
    """Correlation as a product of spectra."""
    k, (h, w) = weight.shape[-1], x.shape[2:]
    size = (h + k - 1, w + k - 1)
    maps = torch.fft.rfft2(torch.stack([x.mean(1), x.amax(1)], 1), size)
    full = torch.fft.irfft2((maps * torch.fft.rfft2(weight.flip(2, 3), size)).sum(1, True), size)
    return torch.sigmoid(full[:, :, k // 2 : k // 2 + h, k // 2 : k // 2 + w])


def spatial_in_depth(x, weight):
    """Channels as a third dimension of space."""
    c, r = x.shape[1], weight.shape[-1] // 2
    maps = [pool(x[:, None], (c, 1, 1))[:, 0] for pool in (F.avg_pool3d, F.max_pool3d)]
    return torch.sigmoid(F.conv3d(torch.cat(maps, 1)[:, None], weight[:, None], padding=(0, r, r))[:, 0])


def spatial_cut_out(x, weight):
    """Padded too much, and cut to size."""
    k, (h, w) = weight.shape[-1], x.shape[2:]
    maps = F.conv2d(torch.stack([x.mean(1), x.amax(1)], 1), weight, padding=k)
    start = k - k // 2
    return maps[:, :, start : start + h, start : start + w].sigmoid()


def spatial_pads_the_input(x, weight):
    """A pixel of zeros has a mean and a maximum of 0."""
    x = F.pad(x, [weight.shape[-1] // 2] * 4)
    return F.conv2d(torch.stack([x.mean(1), x.amax(1)], 1), weight).sigmoid()


class Spatial(nn.Module):
    def forward(self, features, kernel):
        return spatial_two_convolutions(features, kernel)


@torch.jit.script
def spatial_scripted(x, weight):
    maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return torch.sigmoid(F.conv2d(maps, weight, padding=weight.size(3) // 2))


SPATIAL_RIGHT = {
    "functional": spatial_functional,
    "module with copied weights": spatial_module,
    "module with a bias of zero": spatial_module_with_bias,
    "unfold": spatial_unfold,
    "windows": spatial_windows,
    "shifts": spatial_shifts,
    "loops": spatial_loops,
    "two convolutions": spatial_two_convolutions,
    "padded by hand": spatial_padded_by_hand,
    "transposed convolution": spatial_transposed_convolution,
    "float64 inside": spatial_in_float64,
    "pooled along a line": spatial_pooled,
    "fourier": spatial_fourier,
    "three dimensions": spatial_in_depth,
    "cut out": spatial_cut_out,
    "pads the input": spatial_pads_the_input,
    "module": Spatial(),
    "scripted": spatial_scripted,
    "lambda": lambda a, b: spatial_unfold(a, b),
    "package": spatial_of_the_package,
}


def _spatial(
    avg=lambda x: torch.mean(x, 1, keepdim=True),
    top=lambda x: torch.max(x, 1, keepdim=True)[0],
    join=lambda a, m: torch.cat((a, m), dim=1),
    padding=lambda k: (k - 1) // 2,
    kernel=lambda w: w,
    end=torch.sigmoid,
    shape=lambda w, x: w,
):
    """Spatial attention with one thing wrong, in the words of a learner."""

    def attend(x, weight):
        y = join(avg(x), top(x))
        return shape(end(F.conv2d(y, kernel(weight), padding=padding(weight.shape[-1]))), x)

    return attend


def _reflects(x, weight, mode="reflect"):
    k = weight.shape[-1]
    conv = nn.Conv2d(2, 1, k, padding=k // 2, padding_mode=mode, bias=False)
    conv.weight.data = weight
    return conv(torch.cat([x.mean(1, True), x.amax(1, True)], 1)).sigmoid()


def _mirrored(x, weight):
    maps = torch.stack([x.mean(1), x.amax(1)], 1)
    return torch.sigmoid(F.conv_transpose2d(maps, weight.transpose(0, 1), padding=weight.shape[-1] // 2))


def _pooled_globally(x, weight):
    maps = torch.cat([F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)], dim=1)
    return torch.sigmoid(F.conv2d(maps, weight, padding="same"))


SPATIAL_WRONG = {
    "max-first": _spatial(join=lambda a, m: torch.cat((m, a), dim=1)),
    "average-twice": _spatial(top=lambda x: x.mean(1, True)),
    "max-twice": _spatial(avg=lambda x: x.amax(1, True)),
    "no-padding": _spatial(padding=lambda k: 0),
    "padding-too-large": _spatial(padding=lambda k: k),
    "padding-always-1": _spatial(padding=lambda k: 1),
    "padding-always-3": _spatial(padding=lambda k: 3),
    "padding-repeats-the-edge: reflect": _reflects,
    "padding-repeats-the-edge: replicate": functools.partial(_reflects, mode="replicate"),
    "padding-repeats-the-edge: circular": functools.partial(_reflects, mode="circular"),
    "no-sigmoid": _spatial(end=lambda s: s),
    "sigmoid-before-the-convolution": _spatial(
        avg=lambda x: x.mean(1, True).sigmoid(), top=lambda x: x.amax(1, True).sigmoid(), end=lambda s: s
    ),
    "sigmoid-twice": _spatial(end=lambda s: torch.sigmoid(torch.sigmoid(s))),
    "softmax": _spatial(end=lambda s: s.view(s.shape[0], -1).softmax(dim=-1).view_as(s)),
    "softmax: along the rows": _spatial(end=lambda s: F.softmax(s, dim=3)),
    "softmax-of-one-number": _spatial(end=lambda s: F.softmax(s, dim=1)),
    "sum-instead-of-average": _spatial(avg=lambda x: torch.sum(x, 1, keepdim=True)),
    "min-instead-of-max": _spatial(top=lambda x: torch.min(x, 1, keepdim=True)[0]),
    "place-of-the-maximum": _spatial(top=lambda x: torch.max(x, 1, keepdim=True)[1].float()),
    "kernel-flipped": _spatial(kernel=lambda w: torch.flip(w, [2, 3])),
    "kernel-flipped: transposed convolution": _mirrored,
    "kernel-transposed": _spatial(kernel=lambda w: w.transpose(-1, -2)),
    "pooled-over-the-pixels": _pooled_globally,
    "not-two-channels: the map itself": lambda x, w: torch.sigmoid(F.conv2d(x, w, padding="same")),
    "not-two-channels: one behind the other": _spatial(join=lambda a, m: torch.cat((a, m), dim=0)),
    "not-two-channels: stacked in front": _spatial(
        join=lambda a, m: torch.stack((a.squeeze(1), m.squeeze(1)))
    ),
    "not-two-channels: added": _spatial(join=lambda a, m: a + m),
    "returns-the-map": _spatial(shape=lambda w, x: w * x),
    "no-room-for-channels": _spatial(shape=lambda w, x: w.squeeze(1)),
    "spread-over-the-channels": _spatial(shape=lambda w, x: w.repeat(1, x.shape[1], 1, 1)),
    "relu-before-the-sigmoid": _spatial(end=lambda s: torch.sigmoid(torch.relu(s))),
}

# ------------------------------------------------------------------------------------------------ cbam


def cbam_of_two(x, w1, w2, weight):
    x = channel_functional(x, w1, w2) * x
    x = spatial_functional(x, weight) * x
    return x


def cbam_of_loops(x, w1, w2, weight):
    refined = x * channel_loops(x, w1, w2)
    return refined * spatial_loops(refined, weight)


def cbam_late_product(x, w1, w2, weight):
    """One product with both weights, at the end."""
    channels = channel_einsum(x, w1, w2)
    pixels = spatial_unfold(x * channels, weight)
    return x * (channels * pixels)


def cbam_flat(x, w1, w2, weight):
    b, c, h, w = x.shape
    table = x.reshape(b, c, h * w)
    s = torch.stack([table.mean(2), table.amax(2)], 1) @ w1.T
    table = table * torch.sigmoid((s.relu() @ w2.T).sum(1)).unsqueeze(2)
    maps = torch.stack([table.mean(1), table.amax(1)], 1).view(b, 2, h, w)
    gate = torch.sigmoid(F.conv2d(maps, weight, padding=weight.shape[3] // 2))
    return (table * gate.view(b, 1, h * w)).view(b, c, h, w)


class Cbam(nn.Module):
    """As a network has it: two modules with weights of their own."""

    def __init__(self):
        super().__init__()
        self.sigmoid = nn.Sigmoid()

    def forward(self, x, w1, w2, weight):
        fc = nn.Sequential(nn.Linear(*w1.T.shape, bias=False), nn.ReLU(), nn.Linear(*w2.T.shape, bias=False))
        fc.load_state_dict({"0.weight": w1, "2.weight": w2})
        conv = nn.Conv2d(2, 1, weight.shape[-1], padding=weight.shape[-1] // 2, bias=False)
        conv.load_state_dict({"weight": weight})
        gate = self.sigmoid(fc(x.mean((2, 3))) + fc(x.amax((2, 3))))
        out = x * gate[:, :, None, None].expand_as(x)
        maps = torch.cat([out.mean(1, keepdim=True), out.max(1, keepdim=True).values], 1)
        return torch.mul(out, self.sigmoid(conv(maps)))


def cbam_image_by_image(x, w1, w2, weight):
    return torch.cat([cbam_of_two(image[None], w1, w2, weight) for image in x])


def cbam_of_the_package(x, w1, w2, weight):
    module = attn_course.CBAM(x.shape[1], x.shape[1] // w1.shape[0], weight.shape[-1])
    module.channel_attention.fc[0].weight = nn.Parameter(w1)
    module.channel_attention.fc[2].weight = nn.Parameter(w2)
    module.spatial_attention.conv.weight = nn.Parameter(weight)
    return module(x)


def cbam_in_place(x, w1, w2, weight):
    out = x.clone()
    out *= channel_columns(x, w1, w2)
    return out * spatial_windows(out, weight)


def cbam_nested(x, w1, w2, weight):
    def step(y, gate, *given):
        return torch.einsum("bchw,bchw->bchw", y, gate(y, *given).expand(y.shape))

    return step(step(x, channel_max_pool, w1, w2), spatial_two_convolutions, weight)


CBAM_RIGHT = {
    "of the two": cbam_of_two,
    "loops": cbam_of_loops,
    "one product": cbam_late_product,
    "flat": cbam_flat,
    "module": Cbam(),
    "image by image": cbam_image_by_image,
    "own copy": cbam_in_place,
    "nested": cbam_nested,
    "lambda": lambda x, a, b, k: (lambda y: y * spatial_shifts(y, k))(x * channel_convolutions(x, a, b)),
    "scripted parts": lambda x, a, b, k: (lambda y: y * spatial_scripted(y, k))(
        x * channel_scripted(x, a, b)
    ),
    "float64 inside": lambda *given: cbam_of_two(*(t.double() for t in given)).float(),
    "package": cbam_of_the_package,
}


def _cbam(steps):
    return lambda x, w1, w2, weight: steps(
        x, lambda y: channel_functional(y, w1, w2), lambda y: spatial_functional(y, weight)
    )


def _of(channel=channel_functional, spatial=spatial_functional):
    def learners(x, w1, w2, weight):
        x = x * channel(x, w1, w2)
        return x * spatial(x, weight)

    return learners


def _forgets_to_multiply(x, ca, sa):
    x = ca(x)
    x = sa(x)
    return x


def _names_mixed_up(x, ca, sa):
    out = x * ca(x)
    return out * sa(x)


def _starts_again(x, ca, sa):
    out = x * ca(x)
    out = x * sa(out)
    return out


CBAM_WRONG = {
    "spatial-first": _cbam(lambda x, ca, sa: (x * sa(x)) * ca(x * sa(x))),
    "parallel": _cbam(_names_mixed_up),
    "original-map-at-the-end": _cbam(_starts_again),
    "channel-only": _cbam(lambda x, ca, sa: ca(x) * x),
    "spatial-only": _cbam(lambda x, ca, sa: sa(x) * x),
    "channel-step-not-multiplied": _cbam(_forgets_to_multiply),
    "channel-step-not-multiplied: at once": _cbam(lambda x, ca, sa: x * sa(ca(x))),
    "gates-added": _cbam(lambda x, ca, sa: x * ca(x) + x * sa(x)),
    "branches-added": _cbam(lambda x, ca, sa: x * ca(x) + x * ca(x) * sa(x * ca(x))),
    "residual-added": _cbam(lambda x, ca, sa: x * ca(x) * sa(x * ca(x)) + x),
    "channel-weights-twice": _cbam(lambda x, ca, sa: x * ca(x) * ca(x) * sa(x * ca(x))),
    "spatial-weights-twice": _cbam(lambda x, ca, sa: x * ca(x) * sa(x * ca(x)) ** 2),
    "map-squared": _cbam(lambda x, ca, sa: x * x * ca(x) * sa(x * ca(x))),
    "weights-added-to-the-map": _cbam(lambda x, ca, sa: (x + ca(x)) + sa(x + ca(x))),
    "returns-spatial-weights": _cbam(lambda x, ca, sa: sa(x * ca(x))),
    "returns-weights-too": _cbam(lambda x, ca, sa: (x * ca(x) * sa(x * ca(x)), sa(x * ca(x)))),
    "channel-average-only": _of(channel=CHANNEL_WRONG["average-only"]),
    "channel-max-only": _of(channel=CHANNEL_WRONG["max-only"]),
    "channel-sigmoid-before-the-sum": _of(channel=CHANNEL_WRONG["sigmoid-before-the-sum"]),
    "channel-no-relu": _of(channel=CHANNEL_WRONG["relu-missing"]),
    "channel-summaries-added": _of(channel=CHANNEL_WRONG["summaries-added"]),
    "channel-map-for-weights": _of(channel=CHANNEL_WRONG["returns-the-map"]),
    "spatial-max-first": _of(spatial=SPATIAL_WRONG["max-first"]),
    "spatial-no-sigmoid": _of(spatial=SPATIAL_WRONG["no-sigmoid"]),
    "weights-do-not-fit-the-map: always 3": _of(spatial=SPATIAL_WRONG["padding-always-3"]),
    "weights-do-not-fit-the-map: no padding": _of(spatial=SPATIAL_WRONG["no-padding"]),
    "weights-do-not-fit-the-map: (B, C)": _of(channel=CHANNEL_WRONG["no-room-for-pixels"]),
    "weights-do-not-fit-the-map: (B, H, W)": _of(spatial=SPATIAL_WRONG["no-room-for-channels"]),
    "maps-for-weights": _of(CHANNEL_WRONG["returns-the-map"], SPATIAL_WRONG["returns-the-map"]),
}

# ---------------------------------------------------------------------------------- self-attention-2d


def self_convolutions(x, w_query, w_key, w_value, gamma):
    """As the document's module: 1 × 1 convolutions and bmm."""
    b, c, h, w = x.size()
    q = F.conv2d(x, w_query.view(*w_query.shape, 1, 1)).view(b, -1, h * w).permute(0, 2, 1)
    k = F.conv2d(x, w_key.view(*w_key.shape, 1, 1)).view(b, -1, h * w)
    v = F.conv2d(x, w_value.view(*w_value.shape, 1, 1)).view(b, -1, h * w)
    attention = F.softmax(torch.bmm(q, k), dim=-1)
    out = torch.bmm(v, attention.permute(0, 2, 1)).view(b, c, h, w)
    return gamma * out + x


def self_modules(x, w_query, w_key, w_value, gamma):
    """Convolutions of its own, with copies of the weights."""
    convs = []
    for weight in (w_query, w_key, w_value):
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], kernel_size=1, bias=False)
        conv.weight.data.copy_(weight[:, :, None, None])
        convs.append(conv)
    q, k, v = (conv(x).flatten(2) for conv in convs)
    weights = (q.transpose(1, 2) @ k).softmax(dim=2)
    return x + gamma * (v @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])


def self_sdpa(x, w_query, w_key, w_value, gamma):
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = (F.linear(tokens, w) for w in (w_query, w_key, w_value))
    out = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return gamma * out.transpose(1, 2).reshape(x.shape) + x


def self_sdpa_prescaled(x, w_query, w_key, w_value, gamma):
    tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
    q, k, v = tokens @ w_query.T, tokens @ w_key.T, tokens @ w_value.T
    out = F.scaled_dot_product_attention(q * math.sqrt(q.shape[-1]), k, v)
    return gamma * out.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2) + x


def self_einsum(x, w_query, w_key, w_value, gamma):
    q = torch.einsum("dc,bchw->bdhw", w_query, x)
    k = torch.einsum("dc,bchw->bdhw", w_key, x)
    v = torch.einsum("dc,bchw->bdhw", w_value, x)
    scores = torch.einsum("bdhw,bdij->bhwij", q, k)
    weights = scores.flatten(3).softmax(-1).view_as(scores)
    return torch.einsum("bhwij,bcij->bchw", weights, v) * gamma + x


def self_columns(x, w_query, w_key, w_value, gamma):
    """Scores with a column for each query, and the softmax down the columns."""
    table = x.flatten(2)
    scores = (w_key @ table).mT @ (w_query @ table)  # (B, key, query)
    return (w_value @ table @ torch.softmax(scores, dim=1)).reshape(x.shape).mul(gamma).add(x)


def self_by_hand(x, w_query, w_key, w_value, gamma):
    flat = x.reshape(x.shape[0], x.shape[1], -1)
    s = (w_query @ flat).transpose(1, 2) @ (w_key @ flat)
    e = torch.exp(s)
    p = e / e.sum(2, keepdim=True)
    return (gamma * torch.matmul(w_value @ flat, p.transpose(1, 2))).reshape_as(x) + x


def self_loops(x, w_query, w_key, w_value, gamma):
    b, c, h, w = x.shape
    images = []
    for n in range(b):
        pixels = [x[n, :, i, j] for i in range(h) for j in range(w)]
        keys, values = [w_key @ p for p in pixels], [w_value @ p for p in pixels]
        rows = []
        for pixel in pixels:
            query = w_query @ pixel
            weights = torch.softmax(torch.stack([(query * key).sum() for key in keys]), 0)
            found = sum(share * value for share, value in zip(weights, values, strict=True))
            rows.append(gamma * found + pixel)
        images.append(torch.stack(rows, 1).reshape(c, h, w))
    return torch.stack(images)


def self_in_blocks(x, w_query, w_key, w_value, gamma):
    """A few queries at a time."""
    tokens = x.flatten(2).mT
    k, v = tokens @ w_key.T, tokens @ w_value.T
    parts = [(piece @ w_query.T @ k.mT).softmax(-1) @ v for piece in tokens.split(4, dim=1)]
    return gamma * torch.cat(parts, 1).mT.reshape(x.shape) + x


def self_by_columns_of_the_map(x, w_query, w_key, w_value, gamma):
    """The pixels column by column: any order does, if the way back is the same."""
    b, c, h, w = x.shape
    tokens = x.permute(0, 3, 2, 1).reshape(b, w * h, c)
    weights = ((tokens @ w_query.T) @ (tokens @ w_key.T).transpose(1, 2)).softmax(-1)
    out = (weights @ (tokens @ w_value.T)).reshape(b, w, h, c).permute(0, 3, 2, 1)
    return gamma * out + x


def self_projects_later(x, w_query, w_key, w_value, gamma):
    """Mixes the pixels, then projects; compares with one matrix of both weights."""
    tokens = x.flatten(2).mT
    weights = (tokens @ (w_query.T @ w_key) @ tokens.mT).softmax(-1)
    return (gamma * (weights @ tokens @ w_value.T) + tokens).mT.reshape(x.shape)


def self_gamma_as_map(x, w_query, w_key, w_value, gamma):
    return torch.addcmul(x, gamma.view(1, 1, 1, 1), self_attended(x, w_query, w_key, w_value))


def self_attended(x, w_query, w_key, w_value):
    return self_convolutions(x, w_query, w_key, w_value, torch.ones(1)) - x


def self_multi_head(x, w_query, w_key, w_value, gamma):
    """torch's own multi-head attention, one head, where queries have as many channels as the map; else by hand."""
    if w_query.shape[0] != x.shape[1]:
        return self_sdpa(x, w_query, w_key, w_value, gamma)
    c = x.shape[1]
    attention = nn.MultiheadAttention(c, 1, bias=False, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([w_query * c**0.5, w_key, w_value]))
        attention.out_proj.weight.copy_(torch.eye(c))
    tokens = x.flatten(2).mT
    out, _ = attention(tokens, tokens, tokens)
    return gamma * out.mT.reshape(x.shape) + x


def self_of_the_package(x, w_query, w_key, w_value, gamma):
    module = attn_course.SelfAttention2D(x.shape[1])
    for name, weight in (("query", w_query), ("key", w_key), ("value", w_value)):
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
        conv.weight = nn.Parameter(weight[:, :, None, None])
        setattr(module, f"{name}_conv", conv)
    del module.gamma
    module.gamma = gamma
    return module(x)


def self_plain_exponentials(x, w_query, w_key, w_value, gamma):
    """No maximum is taken away; a column of ones among the values makes the sums."""
    t = x.flatten(2).mT
    e = ((t @ w_query.T) @ (t @ w_key.T).mT).exp()
    sums = e @ torch.cat([t @ w_value.T, torch.ones(*t.shape[:2], 1)], -1)
    return gamma * (sums[..., :-1] / sums[..., -1:]).mT.reshape(x.shape) + x


def self_block_diagonal(x, w_query, w_key, w_value, gamma):
    """One sequence of the whole batch, masked."""
    b, c, h, w = x.shape
    t = x.permute(0, 2, 3, 1).reshape(-1, c)
    same = torch.block_diag(*[torch.ones(h * w, h * w)] * b).bool()
    scores = ((t @ w_query.T) @ (t @ w_key.T).T).masked_fill(~same, -torch.inf)
    out = scores.softmax(-1) @ (t @ w_value.T)
    return gamma * out.reshape(b, h, w, c).permute(0, 3, 1, 2) + x


def self_fused(x, w_query, w_key, w_value, gamma):
    """One product for all three, conv1d's way; the sum by baddbmm."""
    flat = x.flatten(2)
    every = F.conv1d(flat, torch.cat([w_query, w_key, w_value])[..., None])
    q, k, v = every.split([len(w_query), len(w_key), len(w_value)], dim=1)
    weights = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k), dim=2, dtype=torch.float64).float()
    return torch.baddbmm(flat, v * gamma.reshape(1, 1, 1), weights.mT).view_as(x)


def self_log_sum(x, w_query, w_key, w_value, gamma):
    def one(image):
        t = image.flatten(1).T
        s = (t @ w_query.T) @ (t @ w_key.T).T
        out = torch.exp(s - torch.logsumexp(s, -1, keepdim=True)) @ (t @ w_value.T)
        return gamma * out.T.reshape(image.shape) + image

    return torch.vmap(one)(x)


class SelfAttention(nn.Module):
    def forward(self, features, *rest):
        return self_columns(features, *rest)


@torch.jit.script
def self_scripted(x, w_query, w_key, w_value, gamma):
    flat = x.flatten(2)
    scores = torch.matmul(torch.matmul(w_query, flat).transpose(1, 2), torch.matmul(w_key, flat))
    out = torch.matmul(torch.matmul(w_value, flat), torch.softmax(scores, -1).transpose(1, 2))
    return gamma * out.view_as(x) + x


SELF_RIGHT = {
    "convolutions": self_convolutions,
    "modules with copied weights": self_modules,
    "sdpa": self_sdpa,
    "sdpa, scaled beforehand": self_sdpa_prescaled,
    "einsum": self_einsum,
    "columns": self_columns,
    "by hand": self_by_hand,
    "loops": self_loops,
    "in blocks": self_in_blocks,
    "column by column": self_by_columns_of_the_map,
    "projects later": self_projects_later,
    "gamma as a map": self_gamma_as_map,
    "plain exponentials": self_plain_exponentials,
    "block diagonal": self_block_diagonal,
    "fused": self_fused,
    "vmap and logsumexp": self_log_sum,
    "multi-head module": self_multi_head,
    "module": SelfAttention(),
    "scripted": self_scripted,
    "float64 inside": lambda *given: self_sdpa(*(t.double() for t in given)).float(),
    "lambda": lambda x, a, b, c, g: self_einsum(x, a, b, c, g),
    "package": self_of_the_package,
}


def _self(
    inputs=lambda x, q, k, v: (q @ x.flatten(2), k @ x.flatten(2), v @ x.flatten(2)),
    compare=lambda q, k: q.transpose(1, 2) @ k,
    softmax=lambda s: F.softmax(s, -1),
    mix=lambda v, a: torch.bmm(v, a.transpose(1, 2)),
    shape=lambda out, x: out.view(x.shape),
    end=lambda out, x, gamma: gamma * out + x,
):
    """Self-attention over pixels with one thing wrong, in the words of a learner."""

    def attend(x, w_query, w_key, w_value, gamma):
        q, k, v = inputs(x, w_query, w_key, w_value)
        return end(shape(mix(v, softmax(compare(q, k))), x), x, gamma)

    return attend


def _default_scale(x, w_query, w_key, w_value, gamma):
    t = x.flatten(2).mT
    out = F.scaled_dot_product_attention(t @ w_query.T, t @ w_key.T, t @ w_value.T)
    return gamma * out.mT.reshape(x.shape) + x


def _views(x, w_query, w_key, w_value, gamma):
    b, c, h, w = x.shape
    t = x.view(b, h * w, c)
    out = torch.softmax((t @ w_query.T) @ (t @ w_key.T).transpose(1, 2), -1) @ (t @ w_value.T)
    return gamma * out.view(b, c, h, w) + x


def _view_at_the_end(x, w_query, w_key, w_value, gamma):
    t = x.flatten(2).transpose(1, 2)
    out = torch.softmax((t @ w_query.T) @ (t @ w_key.T).transpose(1, 2), -1) @ (t @ w_value.T)
    return gamma * out.reshape(x.shape) + x


def _no_turns(x, w_query, w_key, w_value, gamma):
    t = x.flatten(2).transpose(1, 2)
    out = torch.softmax((t @ w_query.T) @ (t @ w_key.T).transpose(1, 2), -1) @ (t @ w_value)
    return gamma * out.transpose(1, 2).reshape(x.shape) + x


def _skips_at_zero(x, w_query, w_key, w_value, gamma):
    if not gamma.any():
        return x
    return self_sdpa(x, w_query, w_key, w_value, gamma)


def _whole_batch(x, w_query, w_key, w_value, gamma):
    b, c, h, w = x.shape
    t = x.permute(0, 2, 3, 1).reshape(-1, c)
    out = torch.softmax((t @ w_query.T) @ (t @ w_key.T).T, -1) @ (t @ w_value.T)
    return gamma * out.reshape(b, h, w, c).permute(0, 3, 1, 2) + x


def _along_rows(x, w_query, w_key, w_value, gamma):
    t = x.permute(0, 2, 3, 1)
    out = ((t @ w_query.T) @ (t @ w_key.T).mT).softmax(-1) @ (t @ w_value.T)
    return gamma * out.permute(0, 3, 1, 2) + x


SELF_WRONG = {
    "softmax-over-queries": _self(softmax=lambda s: F.softmax(s, 1)),
    "softmax-over-the-batch": _self(softmax=lambda s: F.softmax(s, 0)),
    "no-softmax": _self(softmax=lambda s: s),
    "divided-by-the-number-of-pixels": _self(softmax=lambda s: s / s.size(-1)),
    "scaled-by-the-root-of-the-width": _default_scale,
    "scaled-by-the-root-of-the-width: by hand": _self(
        compare=lambda q, k: q.transpose(1, 2) @ k / math.sqrt(q.size(1))
    ),
    "query-and-key-exchanged": _self(compare=lambda q, k: k.transpose(1, 2) @ q),
    "value-and-key-exchanged": lambda x, q, k, v, g: _values_for_keys(x, q, k, v, g),
    "no-value-projection": _self(
        inputs=lambda x, q, k, v: (q @ x.flatten(2), k @ x.flatten(2), x.flatten(2))
    ),
    "value-weight-not-turned": _no_turns,
    "map-turned": _self(mix=torch.bmm),
    "view-mixes-channels-and-pixels": _views,
    "output-view-mixes": _view_at_the_end,
    "height-and-width-exchanged": _self(
        shape=lambda out, x: out.view(*x.shape[:2], x.shape[3], x.shape[2]).transpose(2, 3)
    ),
    "not-returned-to-a-map": _self(shape=lambda out, x: out, end=lambda o, x, g: g * o + x.flatten(2)),
    "residual-missing": _self(end=lambda out, x, gamma: gamma * out),
    "gamma-on-x": _self(end=lambda out, x, gamma: out + gamma * x),
    "gamma-on-both": _self(end=lambda out, x, gamma: gamma * (x + out)),
    "gamma-shared-out": _self(end=lambda out, x, gamma: torch.lerp(x, out, gamma)),
    "gamma-ignored": _self(end=lambda out, x, gamma: x + out),
    "gamma-and-residual-missing": _self(end=lambda out, x, gamma: out),
    "gamma-of-one-shape-only": _self(end=lambda out, x, gamma: gamma[0] * out + x),
    "gamma-through-a-function": _self(end=lambda out, x, gamma: gamma * gamma * out + x),
    "nothing-found": lambda x, *rest: x,
    "gamma-zero-shortcut": _skips_at_zero,
    "gamma-without-gradient": _self(end=lambda out, x, gamma: gamma.item() * out + x),
    "gamma-without-gradient: a new parameter": _self(end=lambda out, x, gamma: nn.Parameter(gamma) * out + x),
    "across-the-batch": _whole_batch,
    "along-rows-or-columns-only": _along_rows,
}


def _values_for_keys(x, w_query, w_key, w_value, gamma):
    t = x.flatten(2).mT
    q, k, v = t @ w_query.T, t @ w_value.T, t @ w_key.T
    return gamma * ((q @ k.mT).softmax(-1) @ v).mT.reshape(x.shape) + x


RIGHT = {
    "channel-attention": CHANNEL_RIGHT,
    "spatial-attention": SPATIAL_RIGHT,
    "cbam": CBAM_RIGHT,
    "self-attention-2d": SELF_RIGHT,
}
WRONG = {
    "channel-attention": CHANNEL_WRONG,
    "spatial-attention": SPATIAL_WRONG,
    "cbam": CBAM_WRONG,
    "self-attention-2d": SELF_WRONG,
}
