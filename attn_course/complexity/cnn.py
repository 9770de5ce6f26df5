"""A convolution, the gates of `cnn.py`, `SelfAttention2D` and `AttentionCNN`."""

from __future__ import annotations

import math
from typing import Any

from .core import DTYPE_BYTES, SIGMOID, SOFTMAX, Cost, check_odd, in_bytes, named, summed
from .memory import Memory, Storage, Table, peaks

# The thresholds of attn_course/cnn.py; a test holds them to be the same.
PIECE_BYTES = 2 * 2**20
KEEP_BYTES = 8 * 2**20
FUSE_ELEMENTS = 2**18

Image = tuple[int, int, int, int]  # batch, channels, height, width


def convolution(
    *,
    batch: int,
    in_channels: int,
    out_channels: int,
    height: int,
    width: int,
    kernel_size: int,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = True,
    dtype: str = "float32",
) -> Cost:
    """`nn.Conv2d`; the padding is `kernel_size // 2` unless given, which keeps the size of the map."""
    if padding is None:
        check_odd(kernel_size)
        padding = kernel_size // 2
    size_out = tuple((size + 2 * padding - kernel_size) // stride + 1 for size in (height, width))
    if min(size_out) < 1:
        raise ValueError(
            f"kernel_size must be at most height and width with their padding, got {kernel_size} for "
            f"{height + 2 * padding} x {width + 2 * padding}"
        )
    places = batch * size_out[0] * size_out[1]
    given, made = batch * in_channels * height * width, places * out_channels
    weights = in_channels * out_channels * kernel_size**2
    learnt = weights + bias * out_channels

    def steps(memory: Memory, x: Table) -> tuple[Table, ...]:
        channels = (in_channels, out_channels)
        size = (size_out[0], size_out[1])
        return (memory.convolution(x, batch, channels, size, kernel_size, stride=stride, bias=bias),)

    return Cost(
        mechanism="convolution",
        sizes={
            "batch": batch,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "height": height,
            "width": width,
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "bias": bias,
            "dtype": dtype,
        },
        terms={"convolution": 2 * places * weights},  # products with the padding's zeros included
        elementwise_terms={"bias": made} if bias else {},
        parameters=learnt,
        moved_terms=in_bytes({"convolution": given + learnt + made}, dtype),
        **peaks(dtype, steps, given),
    )


def channel_attention(
    *, batch: int, channels: int, height: int, width: int, reduction: int = 16, dtype: str = "float32"
) -> Cost:
    """`ChannelAttention`: two poolings, one MLP for both, one gate for each channel."""
    hidden = max(1, channels // reduction)
    elements, summary = batch * channels * height * width, batch * channels
    image = (batch, channels, height, width)
    return Cost(
        mechanism="channel-attention",
        sizes={**_named_sizes(image), "reduction": reduction, "dtype": dtype},
        terms={"MLP": 2 * 2 * (2 * summary * hidden)},  # 2 poolings, 2 layers
        elementwise_terms={
            "pooling": 2 * elements,
            "ReLU": 2 * batch * hidden,
            "sum and sigmoid": (1 + SIGMOID) * summary,
            "gate": elements,
        },
        parameters=2 * channels * hidden,
        moved_terms=in_bytes(
            {
                "pooling": 2 * (elements + summary),
                "MLP": 2 * 2 * (summary + batch * hidden + channels * hidden),
                "ReLU": 2 * 2 * batch * hidden,
                "sum and sigmoid": 3 * summary + 2 * summary,
                "gate": elements + summary + elements,
            },
            dtype,
        ),
        **peaks(dtype, lambda memory, x: (channel_steps(memory, x, image, reduction),), elements),
    )


def squeeze_and_excitation(
    *, batch: int, channels: int, height: int, width: int, reduction: int = 16, dtype: str = "float32"
) -> Cost:
    """`SqueezeExcitation`: one pooling, an MLP with biases, one gate for each channel."""
    hidden = max(1, channels // reduction)
    elements, summary = batch * channels * height * width, batch * channels
    parameters = 2 * channels * hidden + hidden + channels
    return Cost(
        mechanism="squeeze-and-excitation",
        sizes={**_named_sizes((batch, channels, height, width)), "reduction": reduction, "dtype": dtype},
        terms={"MLP": 2 * (2 * summary * hidden)},
        elementwise_terms={
            "pooling": elements,
            "biases": batch * (hidden + channels),
            "ReLU": batch * hidden,
            "sigmoid": SIGMOID * summary,
            "gate": elements,
        },
        parameters=parameters,
        moved_terms=in_bytes(
            {
                "pooling": elements + summary,
                "MLP": 2 * (summary + batch * hidden) + parameters,
                "ReLU": 2 * batch * hidden,
                "sigmoid": 2 * summary,
                "gate": elements + summary + elements,
            },
            dtype,
        ),
    )


def efficient_channel_attention(
    *,
    batch: int,
    channels: int,
    height: int,
    width: int,
    kernel_size: int | None = None,
    dtype: str = "float32",
) -> Cost:
    """`EfficientChannelAttention`: one pooling, a convolution along the channels; the paper's size if None."""
    if kernel_size is None:
        kernel_size = int((math.log2(channels) + 1) / 2)
        kernel_size += 1 - kernel_size % 2
    check_odd(kernel_size)
    elements, summary = batch * channels * height * width, batch * channels
    return Cost(
        mechanism="efficient-channel-attention",
        sizes={**_named_sizes((batch, channels, height, width)), "kernel_size": kernel_size, "dtype": dtype},
        terms={"convolution": 2 * summary * kernel_size},
        elementwise_terms={"pooling": elements, "sigmoid": SIGMOID * summary, "gate": elements},
        parameters=kernel_size,
        moved_terms=in_bytes(
            {
                "pooling": elements + summary,
                "convolution": 2 * summary + kernel_size,
                "sigmoid": 2 * summary,
                "gate": elements + summary + elements,
            },
            dtype,
        ),
    )


def spatial_attention(
    *, batch: int, channels: int, height: int, width: int, kernel_size: int = 7, dtype: str = "float32"
) -> Cost:
    """`SpatialAttention`: two poolings over the channels, one convolution, one gate for each place."""
    check_odd(kernel_size)
    places = batch * height * width
    elements = places * channels
    image = (batch, channels, height, width)
    return Cost(
        mechanism="spatial-attention",
        sizes={**_named_sizes(image), "kernel_size": kernel_size, "dtype": dtype},
        terms={"convolution": 2 * places * 2 * kernel_size**2},  # products with the padding's zeros included
        elementwise_terms={"pooling": 2 * elements, "sigmoid": SIGMOID * places, "gate": elements},
        parameters=2 * kernel_size**2,
        moved_terms=in_bytes(
            {
                "pooling": 2 * (elements + places),
                "convolution": 2 * places + 2 * kernel_size**2 + places,
                "sigmoid": 2 * places,
                "gate": elements + places + elements,
            },
            dtype,
        ),
        **peaks(dtype, lambda memory, x: (spatial_steps(memory, x, image, kernel_size),), elements),
    )


def cbam(
    *,
    batch: int,
    channels: int,
    height: int,
    width: int,
    reduction: int = 16,
    kernel_size: int = 7,
    dtype: str = "float32",
) -> Cost:
    """`CBAM`: channel attention, then spatial attention of what it returns."""
    image = (batch, channels, height, width)
    sizes = _named_sizes(image)
    channel = channel_attention(**sizes, reduction=reduction, dtype=dtype)
    spatial = spatial_attention(**sizes, kernel_size=kernel_size, dtype=dtype)

    def steps(memory: Memory, x: Table) -> tuple[Table, ...]:
        return (cbam_steps(memory, x, image, reduction, kernel_size),)

    return Cost(
        mechanism="cbam",
        sizes={**sizes, "reduction": reduction, "kernel_size": kernel_size, "dtype": dtype},
        terms={**channel.terms, **spatial.terms},
        elementwise_terms={
            "channel attention": channel.elementwise,
            "spatial attention": spatial.elementwise,
        },
        parameters=channel.parameters + spatial.parameters,
        moved_terms=summed(channel.moved_terms, spatial.moved_terms),
        **peaks(dtype, steps, math.prod(image)),
    )


def self_attention_2d(*, batch: int, channels: int, height: int, width: int, dtype: str = "float32") -> Cost:
    """`SelfAttention2D` with a `gamma` other than 0: queries and keys have an eighth of the channels."""
    n = height * width
    inner = max(1, channels // 8)
    image = (batch, channels, height, width)
    pairs, elements, narrow = batch * n * n, batch * n * channels, batch * n * inner
    parameters = (channels + 1) * (2 * inner + channels) + 1
    terms = {
        "projections": 2 * batch * n * channels * (2 * inner + channels),
        "scores": 2 * pairs * inner,
        "weighted sum": 2 * pairs * channels,
    }
    keeps_map = pairs * DTYPE_BYTES[dtype] <= KEEP_BYTES
    return Cost(
        mechanism="self-attention-2d",
        sizes={**_named_sizes(image), "dtype": dtype},
        terms=terms,
        elementwise_terms={
            "biases": batch * n * (2 * inner + channels),
            "softmax": SOFTMAX * pairs,
            "gamma": elements,
            "residual": elements,
        },
        parameters=parameters,
        moved_terms=in_bytes(
            {
                "projections": 4 * elements + 2 * narrow + parameters - 1,
                "scores": 2 * narrow + pairs,
                "softmax": 2 * pairs,
                "weighted sum": pairs + 2 * elements,
                "gamma": 2 * elements + 1,
                "residual": 3 * elements,
            },
            dtype,
        ),
        **peaks(dtype, lambda memory, x: (self_attention_steps(memory, x, image),), elements),
        # A map that is not kept is made again in the backward pass.
        training_flops=3 * sum(terms.values()) + (0 if keeps_map else terms["scores"]),
    )


def attention_cnn(
    *, batch: int, height: int, width: int, num_classes: int = 10, dtype: str = "float32"
) -> Cost:
    """`AttentionCNN`, with a `gamma` other than 0 in its self-attention."""
    if min(height, width) < 8:
        raise ValueError(f"height and width must be at least 8, got {height} x {width}")

    def steps(memory: Memory, x: Table) -> tuple[Table, ...]:
        x = backbone_steps(memory, x, (batch, 3, height, width))
        x = memory.max_pool(x, pooled)
        return (memory.linear(memory.mean(x, batch * 256), batch, 256, num_classes),)

    parts, size = backbone_parts((batch, 3, height, width), dtype)
    pooled = batch * (size[0] // 2) * (size[1] // 2) * 256
    entering = batch * size[0] * size[1] * 256
    return sum_of_parts(
        "attention-cnn",
        {"batch": batch, "height": height, "width": width, "num_classes": num_classes, "dtype": dtype},
        parts,
        terms={"classifier": 2 * batch * 256 * num_classes},
        elementwise_terms={
            "pool3": entering_max_pool(size, batch * 256),
            "mean": pooled,
            "classifier bias": batch * num_classes,
        },
        parameters=257 * num_classes,
        moved_terms=in_bytes(
            {
                "pool3": entering + pooled,
                "mean": pooled + batch * 256,
                "classifier": batch * 256 + 257 * num_classes + batch * num_classes,
            },
            dtype,
        ),
        peak=peaks(dtype, steps, batch * 3 * height * width),
    )


# --- What networks are put together from --------------------------------------------------------------------


BACKBONE = (64, 128, 256)  # channels of AttentionCNN's three stages


def backbone_parts(
    image: Image, dtype: str, widths: tuple[int, int, int] = BACKBONE
) -> tuple[dict[str, Cost | tuple[int, int]], tuple[int, int]]:
    """The layers that `AttentionCNN` and `HybridAttentionModel` share, and the size of the map that they give.

    `conv → 64, CBAM, /2, conv → 128, CBAM, /2, conv → 256, self-attention`; a pair is an elementwise step:
    operations, and elements moved.
    """
    batch, channels, height, width = image
    parts: dict[str, Cost | tuple[int, int]] = {}
    for layer, made in enumerate(widths, start=1):
        parts[f"conv{layer}"] = convolution(
            batch=batch,
            in_channels=channels,
            out_channels=made,
            height=height,
            width=width,
            kernel_size=3,
            dtype=dtype,
        )
        channels, elements = made, batch * made * height * width
        parts[f"ReLU{layer}"] = (elements, 2 * elements)
        sizes = _named_sizes((batch, channels, height, width))
        if layer == 3:
            parts["self-attention"] = self_attention_2d(**sizes, dtype=dtype)
        else:
            parts[f"cbam{layer}"] = cbam(**sizes, dtype=dtype)
            seen = entering_max_pool((height, width), batch * channels)
            height, width = height // 2, width // 2
            parts[f"pool{layer}"] = (seen, elements + batch * channels * height * width)
    return parts, (height, width)


def entering_max_pool(size: tuple[int, int], maps: int) -> int:
    """Elements that a 2 x 2 max-pooling compares; an odd last row or column is left out."""
    return maps * (size[0] // 2 * 2) * (size[1] // 2 * 2)


def sum_of_parts(
    mechanism: str,
    sizes: dict[str, int | str | bool],
    parts: dict[str, Cost | tuple[int, int]],
    *,
    terms: dict[str, int],
    elementwise_terms: dict[str, int],
    parameters: int,
    moved_terms: dict[str, int],
    peak: dict[str, Any],
) -> Cost:
    """The cost of a network: that of its parts, and what comes after them."""
    all_terms: dict[str, int] = {}
    all_elementwise: dict[str, int] = {}
    all_moved: dict[str, int] = {}
    training_flops = 3 * sum(terms.values())
    for name, part in parts.items():
        if isinstance(part, Cost):
            all_terms |= named(name, part.terms)
            all_elementwise[name] = part.elementwise
            all_moved |= named(name, part.moved_terms)
            parameters += part.parameters
            training_flops += part.training_flops
        else:
            all_elementwise[name] = part[0]
            all_moved[name] = part[1] * DTYPE_BYTES[str(sizes["dtype"])]
    return Cost(
        mechanism=mechanism,
        sizes=sizes,
        terms=all_terms | terms,
        elementwise_terms=all_elementwise | elementwise_terms,
        parameters=parameters,
        moved_terms=all_moved | moved_terms,
        **peak,
        training_flops=training_flops,
    )


# --- Peak memory --------------------------------------------------------------------------------------------


def _named_sizes(image: Image) -> dict[str, int]:
    return dict(zip(("batch", "channels", "height", "width"), image, strict=True))


def _mean_and_max(memory: Memory, x: Table, elements: int) -> tuple[Table, Table, Table]:
    """`x` itself, its mean and its maximum along one dimension: `elements` of each."""
    if not memory.training:
        return x, memory.mean(x, elements), memory.mean(x, elements)
    size = x.elements
    if size < FUSE_ELEMENTS:
        mean = memory.mean(x, elements)
        largest, places = memory.take(elements), memory.take(elements, 8)
        return x, mean, memory.made(largest, elements, [x], lambda grads: [memory.take(size)], [places])
    largest, places, average = memory.take(elements), memory.take(elements, 8), memory.take(elements)
    # One step with three results: what comes back for the mean and the maximum is added into the gradient of the first.
    step = memory.step([x], lambda grads: [grads[0]], [places])
    return Table(size, x.storage, step), Table(elements, average, step, 1), Table(elements, largest, step, 2)


def _gate(memory: Memory, x: Table, gate: Table, *, inplace: bool = False) -> Table:
    elements, of_gate = x.elements, gate.elements
    if not memory.training and inplace:
        return x
    fused = elements >= FUSE_ELEMENTS

    def backward(grads: list[Storage | None]) -> list[Storage]:
        product = memory.take(elements)
        other = None if fused else memory.take(elements)
        grad_gate = memory.take(of_gate)
        del other
        return [product, grad_gate]

    return memory.made(memory.take(elements), elements, [x, gate], backward, [x.storage, gate.storage])


def channel_steps(memory: Memory, x: Table, image: Image, reduction: int) -> Table:
    batch, channels, _, _ = image
    hidden = max(1, channels // reduction)

    def mlp(x: Table, again: bool) -> Table:
        x = memory.from_output(memory.linear(x, batch, channels, hidden, bias=False, again=again))
        return memory.linear(x, batch, hidden, channels, bias=False, again=again)

    table, mean, maximum = _mean_and_max(memory, x, batch * channels)
    weights = memory.from_output(memory.add(mlp(mean, False), mlp(maximum, True)))
    return _gate(memory, table, weights)


def spatial_steps(
    memory: Memory, x: Table, image: Image, kernel_size: int, *, inplace: bool = False
) -> Table:
    batch, _, height, width = image
    places = batch * height * width
    table, mean, maximum = _mean_and_max(memory, x, places)
    summary = memory.made(
        memory.take(2 * places), 2 * places, [mean, maximum], lambda grads: [grads[0], grads[0]]
    )
    scores = memory.convolution(summary, batch, (2, 1), (height, width), kernel_size, bias=False)
    weights = memory.from_output(scores)
    del scores
    return _gate(memory, table, weights, inplace=inplace)


def cbam_steps(memory: Memory, x: Table, image: Image, reduction: int = 16, kernel_size: int = 7) -> Table:
    return spatial_steps(memory, channel_steps(memory, x, image, reduction), image, kernel_size, inplace=True)


def self_attention_steps(memory: Memory, x: Table, image: Image) -> Table:
    batch, channels, height, width = image
    n, inner = height * width, max(1, channels // 8)

    def projected(made: int) -> Table:
        return memory.convolution(x, batch, (channels, made), (height, width), 1)

    query, key, value = projected(inner), projected(inner), projected(channels)
    pairs = batch * n * n
    if pairs * memory.itemsize <= (KEEP_BYTES if memory.training else PIECE_BYTES):
        weights = memory.from_output(memory.product(query, key, pairs), strided=True)
        attended = memory.product(value, weights, value.elements)
    else:
        weights = None
        attended = _streamed(memory, query, key, value, image)
    return memory.add(_times_gamma(memory, attended), x)


def _times_gamma(memory: Memory, x: Table) -> Table:
    """`gamma · x`, where `gamma` is one number that is learnt."""
    elements = x.elements

    def backward(grads: list[Storage | None]) -> list[Storage]:
        of_gamma = memory.take(elements)
        grad = memory.take(elements)
        del of_gamma
        memory.parameter_gradient(1)
        return [grad]

    return memory.made(memory.take(elements), elements, [x], backward, [x.storage])


def _streamed(memory: Memory, query: Table, key: Table, value: Table, image: Image) -> Table:
    """The map in pieces, in one buffer of the size of a piece; in the backward pass in two."""
    batch, channels, height, width = image
    n = height * width
    images, rows = _piece(batch, n, memory.itemsize)
    elements, narrow = value.elements, query.elements
    output = memory.take(elements)
    pieces = [memory.take(images * rows * n)]
    pieces.append(memory.take(images * rows * channels))
    pieces.clear()

    def backward(grads: list[Storage | None]) -> list[Storage]:
        results = [memory.take(narrow), memory.take(narrow), memory.take(elements)]
        product = memory.take(elements)  # output times gradient, of which the sums stay
        pieces = [memory.take(batch * n)]
        del product
        pieces += [memory.take(images * rows * n) for _ in range(2)]
        pieces.append(memory.take(images * rows * (narrow // (batch * n))))
        return results

    saved = [query.storage, key.storage, value.storage, output]
    return memory.made(output, elements, [query, key, value], backward, saved)


def _piece(batch: int, n: int, itemsize: int) -> tuple[int, int]:
    """Images and queries of one piece of the map."""
    images = min(batch, max(1, PIECE_BYTES // (n * n * itemsize)))
    rows = min(n, max(1, PIECE_BYTES // (n * itemsize)))
    return -(-batch // -(-batch // images)), -(-n // -(-n // rows))


def backbone_steps(memory: Memory, x: Table, image: Image, widths: tuple[int, int, int] = BACKBONE) -> Table:
    """The layers of `backbone_parts`."""
    batch, channels, height, width = image
    for stage, made in enumerate(widths, start=1):
        x = memory.convolution(x, batch, (channels, made), (height, width), 3)
        x = memory.from_output(x)
        channels = made
        if stage < 3:
            x = cbam_steps(memory, x, (batch, channels, height, width))
            height, width = height // 2, width // 2
            x = memory.max_pool(x, batch * channels * height * width)
    return self_attention_steps(memory, x, (batch, channels, height, width))
