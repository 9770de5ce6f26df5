"""Attention inside convolutional networks: which channels matter, which pixels matter, which belong together.

Every module takes a feature map ``(B, C, H, W)`` and returns one of the same shape. Inside, it is a table
``(B, C, n)`` with ``n = H * W`` pixels: channel attention summarises each row of it, spatial attention each
column, and self-attention compares its columns with each other.

Each module computes one formula in the way that fits the call, and chooses by itself:

* no gradient is needed: reductions that do not remember where the maximum was, and nothing stored for later;
* a gradient is needed: ``_MeanAndMax``, ``_Gate`` and ``_StreamedAttention`` below, whose backward passes are
  written by hand so that they allocate fewer tensors of the size of the input;
* a small map, ``torch.compile``, ``torch.export``, ``torch.func``: the plain formula.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The most bytes that one piece of the n x n map may take: what stays in a core's cache between its three steps.
_PIECE_BYTES = 2 * 2**20
# In training a map up to this size is kept for the backward pass; a larger one is computed again there.
_KEEP_BYTES = 8 * 2**20
# Below this many elements a backward pass written by hand costs more to call than it saves.
_FUSE_ELEMENTS = 2**18


def _grad_needed(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _traced() -> bool:
    """Is a compiler, an exporter or a ``torch.func`` transform looking on?"""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _check_feature_map(x: Tensor, name: str, channels: int | None = None, smallest: int = 1) -> None:
    shape = tuple(x.shape)
    if len(shape) == 4 and shape[1] == (channels or shape[1]) > 0 and min(shape[2:]) >= smallest:
        return
    expected = f"(B, {channels or 'C'}, H, W)"
    if len(shape) != 4:
        raise ValueError(f"{name} expects a feature map {expected}, got {len(shape)} dimensions: {shape}")
    if shape[1] != (channels or shape[1]):
        raise ValueError(f"{name} was built for {channels} channels: expected {expected}, got {shape}")
    if shape[1] < 1:
        raise ValueError(f"{name} needs at least 1 channel, got 0: {shape}")
    raise ValueError(f"{name} needs H and W of at least {smallest}, got {shape[2]} x {shape[3]}: {shape}")


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def _check_odd(kernel_size: int, what: str) -> None:
    if kernel_size % 2 == 0:
        raise ValueError(
            f"kernel_size must be odd, so that padding by kernel_size // 2 keeps the size of the {what}: "
            f"got {kernel_size}, take {kernel_size - 1} or {kernel_size + 1}"
        )


# --- Gates: one number per channel, one number per pixel ---------------------------------------------------


class _MeanAndMax(torch.autograd.Function):
    """``x -> (x, mean, max)`` along one dimension.

    ``x`` passes through so that what reads it later hands its gradient back to *this* node, which adds its
    own share in place: one tensor instead of three. A maximum's gradient goes to one element, also at ties.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        maximum, index = x.max(dim, keepdim=True)
        ctx.save_for_backward(index)
        ctx.dim = dim
        return x.view_as(x), x.mean(dim, keepdim=True), maximum

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad_x, grad_mean, grad_max = grads
        (index,) = ctx.saved_tensors
        share = grad_mean / grad_x.shape[ctx.dim]
        return grad_x.add_(share).scatter_add_(ctx.dim, index, grad_max), None


class _Gate(torch.autograd.Function):
    """``x * gate``, where the gate has one element along ``dim``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, dim: int | tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(x, gate)
        ctx.dim = dim
        return x * gate

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (grad,) = grads
        x, gate = ctx.saved_tensors
        product = grad * x
        grad_gate = product.sum(ctx.dim, keepdim=True)
        if not ctx.needs_input_grad[0]:
            return None, grad_gate, None
        if torch.is_grad_enabled():  # A second derivative is wanted, and `out=` has none.
            return grad * gate, grad_gate, None
        return torch.mul(grad, gate, out=product), grad_gate, None


def _mean_and_max(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    if not _grad_needed(x):
        return x, x.mean(dim, keepdim=True), x.amax(dim, keepdim=True)
    if _traced() or x.numel() < _FUSE_ELEMENTS:  # Not amax: it would share the gradient among ties.
        return x, x.mean(dim, keepdim=True), x.max(dim, keepdim=True)[0]
    return _MeanAndMax.apply(x, dim)


def _gate(x: Tensor, gate: Tensor, dim: int | tuple[int, ...], inplace: bool = False) -> Tensor:
    if not _grad_needed(x, gate):
        return x.mul_(gate) if inplace and not _traced() else x * gate
    if _traced() or x.numel() < _FUSE_ELEMENTS:
        return x * gate
    return _Gate.apply(x, gate, dim)


class ChannelAttention(nn.Module):
    r"""Scale every channel by a number between 0 and 1 that depends on all channels.

    .. math:: \text{weights} = \sigma(f(\text{mean}_{HW}\,x) + f(\max_{HW} x)), \qquad
              f(s) = W_2\,\text{relu}(W_1 s), \qquad \text{output} = x \cdot \text{weights}

    The hidden layer has ``max(1, in_channels // reduction_ratio)`` units.

    Shapes: ``x (B, C, H, W)`` -> output ``(B, C, H, W)``; weights ``(B, C, 1, 1)``.
    Cost: ``8 * B * C * C / r`` FLOPs, and ``3 * B * C * H * W`` elementwise operations, which are most of it.

    Raises:
        ValueError: a size below 1; an input that is not ``(B, in_channels, H, W)`` with at least one pixel.

    Woo et al., CBAM: Convolutional Block Attention Module, 2018, https://arxiv.org/abs/1807.06521, section 3.
    """

    def __init__(self, in_channels: int, reduction_ratio: int = 16):
        super().__init__()
        _check_positive(in_channels=in_channels, reduction_ratio=reduction_ratio)
        self.in_channels = in_channels
        hidden = max(1, in_channels // reduction_ratio)
        self.fc = nn.Sequential(
            nn.Linear(in_channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, in_channels, bias=False)
        )

    def forward(self, x: Tensor, *, need_weights: bool = False) -> Any:
        """Return the output, or ``(output, weights)`` with ``need_weights=True``."""
        _check_feature_map(x, "ChannelAttention", self.in_channels)
        table, mean, maximum = _mean_and_max(x.flatten(2), dim=2)
        weights = torch.sigmoid(self.fc(mean.squeeze(2)) + self.fc(maximum.squeeze(2))).unsqueeze(2)
        output = _gate(table, weights, dim=2).view(x.shape)
        return (output, weights.unsqueeze(3)) if need_weights else output


class SqueezeExcitation(nn.Module):
    r"""Scale every channel by a number between 0 and 1 that is worked out from the averages of all channels.

    .. math:: \text{weights} = \sigma(W_2\,\text{relu}(W_1\,\text{mean}_{HW}\,x + b_1) + b_2), \qquad
              \text{output} = x \cdot \text{weights}

    ``ChannelAttention`` without the maximum, with biases. The hidden layer has
    ``max(1, in_channels // reduction_ratio)`` units.

    Shapes: ``x (B, C, H, W)`` -> output ``(B, C, H, W)``; weights ``(B, C, 1, 1)``.
    Cost: ``4 * B * C * C / r`` FLOPs, and ``2 * B * C * H * W`` elementwise operations, which are most of it.

    Raises:
        ValueError: a size below 1; an input that is not ``(B, in_channels, H, W)`` with at least one pixel.

    Hu et al., Squeeze-and-Excitation Networks, 2018, https://arxiv.org/abs/1709.01507, section 3.
    """

    def __init__(self, in_channels: int, reduction_ratio: int = 16):
        super().__init__()
        _check_positive(in_channels=in_channels, reduction_ratio=reduction_ratio)
        self.in_channels = in_channels
        hidden = max(1, in_channels // reduction_ratio)
        self.fc = nn.Sequential(nn.Linear(in_channels, hidden), nn.ReLU(), nn.Linear(hidden, in_channels))

    def forward(self, x: Tensor, *, need_weights: bool = False) -> Any:
        """Return the output, or ``(output, weights)`` with ``need_weights=True``."""
        _check_feature_map(x, "SqueezeExcitation", self.in_channels)
        weights = torch.sigmoid(self.fc(x.mean((2, 3))))
        return _scaled(x, weights, need_weights)


class EfficientChannelAttention(nn.Module):
    r"""Scale every channel by a number between 0 and 1 that is worked out from its neighbours in the list of channels.

    .. math:: \text{weights} = \sigma(\text{conv}_k(\text{mean}_{HW}\,x)), \qquad \text{output} = x \cdot \text{weights}

    The convolution runs along the channels, with zeros beyond both ends and ``k`` numbers to learn in all.
    ``kernel_size=None`` takes the paper's size, ``(log2(C) + 1) / 2`` cut to a whole number and raised to an odd one.

    Shapes: ``x (B, C, H, W)`` -> output ``(B, C, H, W)``; weights ``(B, C, 1, 1)``.
    Cost: ``2 * B * C * k`` FLOPs, and ``2 * B * C * H * W`` elementwise operations, which are most of it.

    Raises:
        ValueError: a size below 1; an even kernel; an input that is not ``(B, in_channels, H, W)`` with at
            least one pixel.

    Wang et al., ECA-Net: Efficient Channel Attention, 2020, https://arxiv.org/abs/1910.03151, section 3.
    """

    def __init__(self, in_channels: int, kernel_size: int | None = None):
        super().__init__()
        _check_positive(in_channels=in_channels)
        if kernel_size is None:
            kernel_size = int((math.log2(in_channels) + 1) / 2)
            kernel_size += 1 - kernel_size % 2
        _check_positive(kernel_size=kernel_size)
        _check_odd(kernel_size, "channels")
        self.in_channels = in_channels
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor, *, need_weights: bool = False) -> Any:
        """Return the output, or ``(output, weights)`` with ``need_weights=True``."""
        _check_feature_map(x, "EfficientChannelAttention", self.in_channels)
        weights = torch.sigmoid(self.conv(x.mean((2, 3))[:, None]))[:, 0]
        return _scaled(x, weights, need_weights)


def _scaled(x: Tensor, weights: Tensor, need_weights: bool) -> Any:
    """``x (B, C, H, W)`` times ``weights (B, C)``, alone or with the weights as ``(B, C, 1, 1)``."""
    weights = weights[:, :, None, None]
    output = _gate(x, weights, dim=(2, 3))
    return (output, weights) if need_weights else output


class SpatialAttention(nn.Module):
    r"""Scale every pixel by a number between 0 and 1 that depends on its neighbourhood.

    .. math:: \text{weights} = \sigma(\text{conv}_{k \times k}[\text{mean}_C\,x;\ \max_C x]),
              \qquad \text{output} = x \cdot \text{weights}

    Shapes: ``x (B, C, H, W)`` -> output ``(B, C, H, W)``; weights ``(B, 1, H, W)``. Any number of channels.
    Cost: ``4 * k * k * B * H * W`` FLOPs, and ``3 * B * C * H * W`` elementwise operations.

    Raises:
        ValueError: a kernel size that is even (no padding keeps the map's size) or below 1; an input that
            is not ``(B, C, H, W)`` with at least one channel and one pixel.

    Woo et al., CBAM: Convolutional Block Attention Module, 2018, https://arxiv.org/abs/1807.06521, section 3.
    """

    def __init__(self, kernel_size: int = 7):
        super().__init__()
        _check_positive(kernel_size=kernel_size)
        _check_odd(kernel_size, "map")
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor, *, need_weights: bool = False, inplace: bool = False) -> Any:
        """Return the output, or ``(output, weights)`` with ``need_weights=True``.

        ``inplace=True`` allows the output to be written over ``x`` where no gradient is needed: half the
        memory, for a caller who owns ``x`` and does not read it again.
        """
        _check_feature_map(x, "SpatialAttention")
        batch, _, height, width = x.shape
        table, mean, maximum = _mean_and_max(x.flatten(2), dim=1)
        summary = torch.cat([mean, maximum], dim=1).view(batch, 2, height, width)
        weights = torch.sigmoid(self.conv(summary))
        output = _gate(table, weights.flatten(2), dim=1, inplace=inplace).view(x.shape)
        return (output, weights) if need_weights else output


class CBAM(nn.Module):
    r"""Channel attention, then spatial attention of the refined map (Convolutional Block Attention Module).

    .. math:: x' = \text{ChannelAttention}(x), \qquad \text{output} = \text{SpatialAttention}(x')

    Shapes: ``x (B, C, H, W)`` -> output ``(B, C, H, W)``; weights ``(B, C, 1, 1)`` and ``(B, 1, H, W)``.
    Cost: the sum of both. Without gradients one tensor of the size of ``x`` is allocated, and nothing is
    written into ``x``.

    Raises:
        ValueError: what ``ChannelAttention`` and ``SpatialAttention`` raise it for.

    Woo et al., CBAM: Convolutional Block Attention Module, 2018, https://arxiv.org/abs/1807.06521.
    """

    def __init__(self, in_channels: int, reduction_ratio: int = 16, kernel_size: int = 7):
        super().__init__()
        self.channel_attention = ChannelAttention(in_channels, reduction_ratio)
        self.spatial_attention = SpatialAttention(kernel_size)

    def forward(self, x: Tensor, *, need_weights: bool = False) -> Any:
        """Return the output, or ``(output, (channel, spatial weights))`` with ``need_weights=True``."""
        options: dict[str, bool] = {"inplace": True} if self._refined_is_private() else {}
        if not need_weights:
            return self.spatial_attention(self.channel_attention(x), **options)
        refined, channel_weights = self.channel_attention(x, need_weights=True)
        output, spatial_weights = self.spatial_attention(refined, need_weights=True, **options)
        return output, (channel_weights, spatial_weights)

    def _refined_is_private(self) -> bool:
        """Is the map between the two steps seen by nobody else: no hook, no other module in their places?"""
        first, second = self.channel_attention, self.spatial_attention
        return (
            type(first) is ChannelAttention
            and type(second) is SpatialAttention
            and not (first._forward_hooks or second._forward_pre_hooks or second._forward_hooks)
        )


# --- Self-attention over pixels ----------------------------------------------------------------------------


def _attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """``query (B, n_q, c)``, ``key (B, c, n)``, ``value (B, C, n)`` -> ``(B, C, n_q)``, ``(B, n_q, n)``."""
    weights = torch.softmax(torch.bmm(query, key), dim=-1)
    return torch.bmm(value, weights.transpose(1, 2)), weights


def _pieces(query: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut the map into (images, queries) that take at most ``_PIECE_BYTES`` each, in pieces of equal size."""
    batch, n = query.shape[:2]
    row_bytes = n * query.element_size()
    images = min(batch, max(1, _PIECE_BYTES // (n * row_bytes)))
    rows = min(n, max(1, _PIECE_BYTES // row_bytes))
    images, rows = -(-batch // -(-batch // images)), -(-n // -(-n // rows))
    for i in range(0, batch, images):
        for q in range(0, n, rows):
            yield slice(i, i + images), slice(q, q + rows)


class _Room:
    """One buffer, used again for every piece: fresh memory of that size costs as much as the arithmetic."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor):
        self.open = not _grad_needed(query, key, value)  # no `out=` while a gradient is recorded
        images, rows = next(_pieces(query))  # the first piece is the largest
        self.n = query.shape[1]
        self.flat = query.new_empty(images.stop * rows.stop * self.n)

    def __call__(self, query: Tensor) -> Tensor | None:
        """Where the scores of these queries go."""
        if not self.open:
            return None
        shape = (*query.shape[:2], self.n)
        return self.flat[: shape[0] * shape[1] * shape[2]].view(shape)


def _attend_by_pieces(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    output = torch.empty_like(value)
    room = _Room(query, key, value)
    for images, rows in _pieces(query):
        q, k, v = query[images, rows], key[images], value[images]
        weights = torch.softmax(torch.bmm(q, k, out=room(q)), dim=-1, out=room(q))  # over the scores
        output[images, :, rows] = torch.bmm(weights, v.transpose(1, 2)).transpose(1, 2)
    return output


class _StreamedAttention(torch.autograd.Function):
    """``_attend`` piece by piece; the backward pass computes each piece of the map again.

    The second time costs one product of inner width ``C / 8``, little beside the products with the values.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = _attend_by_pieces(query, key, value)
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, output = ctx.saved_tensors
        (grad,) = grads
        grad_query = torch.empty_like(query)
        grad_key = torch.zeros_like(key)
        grad_value = torch.zeros_like(value)
        # Softmax: d_scores = weights * (d_weights - sum of weights * d_weights); that sum is output . grad.
        mean = (output * grad).sum(1).unsqueeze(2)
        room, second_room = _Room(query, key, value), _Room(query, key, value)
        for images, rows in _pieces(query):
            q, k, v, g = query[images, rows], key[images], value[images], grad[images, :, rows]
            weights = torch.softmax(torch.bmm(q, k, out=room(q)), dim=-1, out=room(q))
            grad_value[images].baddbmm_(g, weights)
            grad_weights = torch.bmm(g.transpose(1, 2), v, out=second_room(q))
            grad_scores = grad_weights.sub_(mean[images, rows]).mul_(weights)
            grad_query[images, rows] = torch.bmm(grad_scores, k.transpose(1, 2))
            grad_key[images].baddbmm_(q.transpose(1, 2), grad_scores)
        return grad_query, grad_key, grad_value


class SelfAttention2D(nn.Module):
    r"""Let every pixel attend to every pixel, and add what it found to what it was.

    .. math:: q, k, v = \text{conv}_{1 \times 1}(x), \qquad
              \text{weights}_{ij} = \text{softmax}_j(q_i \cdot k_j), \qquad
              \text{output}_i = \gamma \sum_j \text{weights}_{ij} v_j + x_i

    Queries and keys have ``max(1, in_channels // 8)`` channels; the scores are not scaled. ``gamma`` starts
    at 0: a new module is the identity.

    Shapes: ``x (B, C, H, W)`` -> output ``(B, C, H, W)``; weights ``(B, n, n)``, row = query, ``n = H * W``.
    Cost: ``2.25 * B * n * n * C + 2.5 * B * n * C * C`` FLOPs when 8 divides ``C``. Without gradients the
    ``n x n`` map is made in pieces of at most 2 MiB; in training it is kept up to 8 MiB and beyond that made
    in pieces, twice. ``need_weights=True``, ``torch.compile`` and ``torch.export`` hold it whole:
    ``B * n * n`` elements, twice that while the softmax runs.

    While ``gamma`` is exactly 0, inference on a CPU returns a copy of ``x`` and computes no map: set ``gamma``
    before you time or count. Training needs the map even then: it is what moves ``gamma``.

    Raises:
        ValueError: a size below 1; an input that is not ``(B, in_channels, H, W)`` with at least one pixel.

    Zhang et al., Self-Attention Generative Adversarial Networks, 2019, https://arxiv.org/abs/1805.08318,
    section 3; a case of Wang et al., Non-local Neural Networks, 2018, https://arxiv.org/abs/1711.07971.
    """

    def __init__(self, in_channels: int):
        super().__init__()
        _check_positive(in_channels=in_channels)
        self.in_channels = in_channels
        hidden = max(1, in_channels // 8)
        self.query_conv = nn.Conv2d(in_channels, hidden, 1)
        self.key_conv = nn.Conv2d(in_channels, hidden, 1)
        self.value_conv = nn.Conv2d(in_channels, in_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, *, need_weights: bool = False) -> Any:
        """Return the output, or ``(output, weights)`` with ``need_weights=True``."""
        _check_feature_map(x, "SelfAttention2D", self.in_channels)
        if not need_weights and self._is_identity(x):
            return x + self.gamma  # gamma is 0: a copy of x, in the data type that the sum below would have.
        query = self.query_conv(x).flatten(2).transpose(1, 2)
        key = self.key_conv(x).flatten(2)
        value = self.value_conv(x).flatten(2)
        weights = None
        if need_weights or self._keeps_map(query, key, value):
            attended, weights = _attend(query, key, value)
        elif _grad_needed(query, key, value):
            attended = _StreamedAttention.apply(query, key, value)
        else:
            attended = _attend_by_pieces(query, key, value)
        output = self.gamma * attended.view(x.shape) + x
        return (output, weights) if need_weights else output

    def _is_identity(self, x: Tensor) -> bool:
        gamma = self.gamma
        # Look at the value only where that is free: not on an accelerator, the meta device or a fake tensor.
        if _traced() or type(gamma) is not nn.Parameter or gamma.device.type != "cpu" or gamma.item() != 0:
            return False
        return not _grad_needed(x, *self.parameters())

    @staticmethod
    def _keeps_map(query: Tensor, key: Tensor, value: Tensor) -> bool:
        if _traced():
            return True
        batch, n = query.shape[:2]
        bound = _KEEP_BYTES if _grad_needed(query, key, value) else _PIECE_BYTES
        return batch * n * n * query.element_size() <= bound


# --- A network that uses both ------------------------------------------------------------------------------


class AttentionCNN(nn.Module):
    """A small image classifier: two convolutions with CBAM, one with self-attention over pixels.

    ``conv 3 -> 64, CBAM, /2, conv 64 -> 128, CBAM, /2, conv 128 -> 256, SelfAttention2D, /2, mean, linear``;
    ``/2`` is a 2 x 2 max-pooling.

    Shapes: ``x (B, 3, H, W)`` -> logits ``(B, num_classes)``; with ``need_weights=True`` also a dictionary of
    what ``cbam1``, ``cbam2`` and ``self_attention`` return as weights.
    Cost: self-attention sees ``n = (H // 4) * (W // 4)`` pixels, so its share grows with ``(H * W) ** 2``.

    Raises:
        ValueError: fewer than one class; an input that is not ``(B, 3, H, W)`` with ``H, W >= 8``.
    """

    def __init__(self, num_classes: int = 10):
        super().__init__()
        _check_positive(num_classes=num_classes)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1)
        self.cbam1 = CBAM(64)
        self.conv2 = nn.Conv2d(64, 128, 3, padding=1)
        self.cbam2 = CBAM(128)
        self.conv3 = nn.Conv2d(128, 256, 3, padding=1)
        self.self_attention = SelfAttention2D(256)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(256, num_classes)

    def forward(self, x: Tensor, *, need_weights: bool = False) -> Any:
        """Return the logits, or ``(logits, weights)`` with ``need_weights=True``."""
        _check_feature_map(x, "AttentionCNN", 3, smallest=8)
        weights: dict[str, Any] = {}

        def attend(name: str, x: Tensor) -> Tensor:
            if not need_weights:
                return getattr(self, name)(x)
            x, weights[name] = getattr(self, name)(x, need_weights=True)
            return x

        x = F.max_pool2d(attend("cbam1", F.relu(self.conv1(x))), 2)
        x = F.max_pool2d(attend("cbam2", F.relu(self.conv2(x))), 2)
        x = F.max_pool2d(attend("self_attention", F.relu(self.conv3(x))), 2)
        logits = self.classifier(self.pool(x).flatten(1))
        return (logits, weights) if need_weights else logits


def cnn_attention_example() -> Tensor:
    """Run ``AttentionCNN`` on four random 224 x 224 images, print the shapes, return the logits."""
    x = torch.randn(4, 3, 224, 224)
    output = AttentionCNN(num_classes=1000)(x)
    print(f"Input shape: {x.shape}")
    print(f"Output shape: {output.shape}")
    return output
