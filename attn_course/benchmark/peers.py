"""The peers of each mechanism: the same work in other hands, as calls that take nothing and return tensors."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_course import cnn, textbook
from attn_course.hybrid import HybridAttentionModel
from attn_course.transformer import (
    KeyValueCache,
    MultiHeadAttention,
    TransformerBlock,
    merge_heads,
    split_heads,
)
from attn_course.window import sliding_window_attention, sliding_window_mask

if TYPE_CHECKING:
    from attn_course.benchmark.suite import Case

OURS, TEXTBOOK, SDPA, PLAIN = "attn_course", "textbook", "SDPA", "plain formula"
COMPILED, TIMM, LOCAL, FLEX = "attn_course, compiled", "timm", "local-attention", "FlexAttention, compiled"
TORCH = "nn.MultiheadAttention"

Call = Callable[[], tuple[Tensor, ...]]


class Absent(Exception):
    """A peer cannot take part; the message says why."""


@dataclass
class Peers:
    """Who takes part in a case.

    Attributes:
        calls: each runs once, and returns the tensors that are compared.
        absent: who cannot take part, and why.
        references: what a peer's results are held against, where that is not the baseline's: a peer that does other
            work on purpose.
    """

    calls: dict[str, Call]
    absent: dict[str, str] = field(default_factory=dict)
    references: dict[str, Call] = field(default_factory=dict)


def build(case: Case, device: torch.device) -> Peers:
    """The peers of a case, on a device."""
    torch.manual_seed(0)  # a process of its own runs it; in another, see `suite.run_case`
    return _BUILDERS[case.mechanism, case.note](case, device)


# --- Attention in transformers -----------------------------------------------------------------------------


def _attention(case: Case, device: torch.device) -> Peers:
    """Self-attention without weights returned: the fused path."""
    ours, x = _attention_and_input(case, device)
    usual = _copy(textbook.MultiHeadAttention(ours.d_model, ours.num_heads, dropout=0.0), ours)
    theirs = _torch_attention(ours)

    def bare(x: Tensor) -> Tensor:
        q, k, v = (split_heads(w(x), ours.num_heads) for w in (ours.w_q, ours.w_k, ours.w_v))
        return ours.w_o(merge_heads(F.scaled_dot_product_attention(q, k, v)))

    return _module_peers(
        case,
        (x,),
        [ours, usual, theirs],
        {
            TEXTBOOK: lambda x: usual(x, x, x)[0],
            OURS: lambda x: ours(x, x, x, need_weights=False)[0],
            SDPA: bare,
            TORCH: lambda x: theirs(x, x, x, need_weights=False)[0],
        },
        {TIMM: partial(_timm_attention, ours)},
    )


def _attention_with_weights(case: Case, device: torch.device) -> Peers:
    ours, x = _attention_and_input(case, device)
    usual = _copy(textbook.MultiHeadAttention(ours.d_model, ours.num_heads, dropout=0.0), ours)
    theirs = _torch_attention(ours)
    return _module_peers(
        case,
        (x,),
        [ours, usual, theirs],
        {
            TEXTBOOK: lambda x: usual(x, x, x),
            OURS: lambda x: ours(x, x, x),
            TORCH: lambda x: theirs(x, x, x, average_attn_weights=False),
        },
    )


def _decoding(case: Case, device: torch.device) -> Peers:
    """One new token after `n_k - 1` others: with a cache, and with the whole sequence once more."""
    batch, n, d_model, num_heads = (case.sizes[key] for key in ("batch", "n_k", "d_model", "num_heads"))
    ours = MultiHeadAttention(d_model, num_heads, dropout=0.0, num_kv_heads=case.sizes.get("num_kv_heads"))
    ours = ours.to(device, _dtype(case)).eval()
    x = torch.randn(batch, n, d_model, device=device, dtype=_dtype(case))
    d_k, kv_heads = d_model // num_heads, ours.num_kv_heads
    cache = KeyValueCache(batch, kv_heads, n, d_k, dtype=x.dtype, device=device)
    with torch.no_grad():
        for piece in x[:, :-1].split(512, dim=1):
            ours(piece, piece, piece, is_causal=True, need_weights=False, cache=cache)
    last = x[:, -1:]

    def cached() -> tuple[Tensor, ...]:
        cache.length = n - 1
        with torch.no_grad():
            return (ours(last, last, last, is_causal=True, need_weights=False, cache=cache)[0],)

    def projected_again() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (ours(last, x, x, need_weights=False)[0],)

    return Peers({PLAIN: projected_again, OURS: cached})


def _block(case: Case, device: torch.device) -> Peers:
    d_model, num_heads, d_ff = (case.sizes[key] for key in ("d_model", "num_heads", "d_ff"))
    ours = TransformerBlock(d_model, num_heads, d_ff, dropout=0.0).to(device, _dtype(case))
    usual = _copy(textbook.TransformerBlock(d_model, num_heads, d_ff, dropout=0.0), ours)
    x = torch.randn(case.sizes["batch"], case.sizes["n"], d_model, device=device, dtype=_dtype(case))
    calls = {TEXTBOOK: lambda x: usual(x)[0], OURS: lambda x: ours(x, need_weights=False)[0]}
    return _module_peers(case, (x,), [ours, usual], calls)


def _window(case: Case, device: torch.device) -> Peers:
    """Windows: SDPA under a band mask is the baseline, which does the work of full attention."""
    q, k, v = _heads(case, device)
    window = case.sizes["window"]
    mask = sliding_window_mask(q.shape[-2], window, device=device)
    calls = {
        f"{SDPA}, band mask": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        OURS: lambda q, k, v: sliding_window_attention(q, k, v, window),
    }
    optional = {LOCAL: partial(_local_attention, window), FLEX: partial(_flex_attention, case, q, window)}
    return _module_peers(case, (q, k, v), [], calls, optional)


def _window_at_two_lengths(case: Case, device: torch.device) -> Peers:
    """As many tokens in one long sequence as in several short ones: is a token's price the same?"""
    q, k, v = _heads(case, device)
    n, window, times = q.shape[-2], case.sizes["window"], case.sizes["n"] // 2048
    short_q, short_k, short_v = (part[:, :, : n // times].contiguous() for part in (q, k, v))

    def long() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (sliding_window_attention(q, k, v, window)[:, :, : n // times - window],)

    def several() -> tuple[Tensor, ...]:
        with torch.no_grad():
            for _ in range(times):
                output = sliding_window_attention(short_q, short_k, short_v, window)
        return (output[:, :, : n // times - window],)

    return Peers({f"{OURS}, n = {n // times}, {times} times": several, OURS: long})


def _lengths(case: Case, device: torch.device) -> Peers:
    """Full attention in its usual form, full attention fused, and windows: over the length of the sequence.

    The windows do other work on purpose, and are held against SDPA under their mask.
    """
    q, k, v = _heads(case, device)
    n, window = q.shape[-2], case.sizes["window"]
    mask = sliding_window_mask(n, window, device=device)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1) @ v

    calls = {
        SDPA: F.scaled_dot_product_attention,
        OURS: lambda q, k, v: sliding_window_attention(q, k, v, window),
    }
    if n <= _LONGEST_PLAIN:
        calls = {TEXTBOOK: plain, **calls}
    peers = _module_peers(case, (q, k, v), [], calls)
    band = {OURS: lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)}
    peers.references = _module_peers(case, (q, k, v), [], band).calls
    if n > _LONGEST_PLAIN:
        peers.absent[TEXTBOOK] = f"its maps would take {8 * q.numel() // q.shape[-1] * n / 2**30:.0f} GiB"
    return peers


_LONGEST_PLAIN = 8192


# --- Attention in CNNs -------------------------------------------------------------------------------------


def _gate_of_textbook(ours: Callable[..., nn.Module], usual: Callable[..., nn.Module], on_input: bool) -> Any:
    """Channel or spatial attention. The usual forms return the gate's product too, or the gate alone."""

    def peers(case: Case, device: torch.device) -> Peers:
        x = _feature_map(case, device)
        mine = (ours(x.shape[1]) if on_input else ours()).to(device, x.dtype)
        theirs = _copy(usual(x.shape[1]) if on_input else usual(), mine)
        return _module_peers(case, (x,), [mine, theirs], {TEXTBOOK: theirs, OURS: mine})

    return peers


def _cbam(case: Case, device: torch.device) -> Peers:
    x = _feature_map(case, device)
    ours = cnn.CBAM(x.shape[1]).to(device, x.dtype)
    usual = _copy(textbook.CBAM(x.shape[1]), ours)
    return _module_peers(
        case,
        (x,),
        [ours, usual],
        {TEXTBOOK: usual, OURS: ours},
        {COMPILED: partial(_compiled, ours), TIMM: partial(_timm_cbam, ours)},
    )


def _channel_gate(kind: type[nn.Module]) -> Any:
    """Gates that the textbook lacks, against their formulas, written as in their papers' own code."""

    def peers(case: Case, device: torch.device) -> Peers:
        x = _feature_map(case, device)
        ours: Any = kind(x.shape[1]).to(device, x.dtype)

        def plain(x: Tensor) -> Tensor:
            mean = F.adaptive_avg_pool2d(x, 1).flatten(1)
            scores = (
                ours.fc(mean) if isinstance(ours, cnn.SqueezeExcitation) else ours.conv(mean[:, None])[:, 0]
            )
            return x * torch.sigmoid(scores)[:, :, None, None].expand_as(x)

        return _module_peers(case, (x,), [ours], {PLAIN: plain, OURS: ours})

    return peers


def _self_attention_2d(case: Case, device: torch.device) -> Peers:
    x = _feature_map(case, device)
    ours = cnn.SelfAttention2D(x.shape[1]).to(device, x.dtype)
    nn.init.constant_(ours.gamma, 0.5)  # at its start, 0, the mechanism is the identity
    usual = _copy(textbook.SelfAttention2D(x.shape[1]), ours)
    return _module_peers(case, (x,), [ours, usual], {TEXTBOOK: usual, OURS: ours})


def _convolution(case: Case, device: torch.device) -> Peers:
    """torch's convolution, and the same as one matrix product of unfolded patches."""
    sizes = case.sizes
    kernel = sizes["kernel_size"]
    theirs: Any = nn.Conv2d(sizes["in_channels"], sizes["out_channels"], kernel, padding=kernel // 2)
    theirs = theirs.to(device, _dtype(case))
    x = torch.randn(
        sizes["batch"],
        sizes["in_channels"],
        sizes["height"],
        sizes["width"],
        device=device,
        dtype=_dtype(case),
    )

    def unfolded(x: Tensor) -> Tensor:
        patches = F.unfold(x, kernel, padding=kernel // 2)
        output = theirs.weight.flatten(1) @ patches + theirs.bias[:, None]
        return output.view(len(x), -1, *x.shape[2:])

    return _module_peers(case, (x,), [theirs], {PLAIN: unfolded, OURS: theirs})


def _attention_cnn(case: Case, device: torch.device) -> Peers:
    x = _feature_map(case, device, channels=3)
    ours = cnn.AttentionCNN().to(device, x.dtype)
    usual = _copy(textbook.AttentionCNN(), ours)
    return _module_peers(case, (x,), [ours, usual], {TEXTBOOK: usual, OURS: ours})


def _hybrid(case: Case, device: torch.device) -> Peers:
    x = _feature_map(case, device)
    shape = (x.shape[1], x.shape[2], x.shape[3])
    ours = HybridAttentionModel(shape, case.sizes["num_classes"], positions=False).to(device, x.dtype)
    usual = _copy(textbook.create_hybrid_model(shape, case.sizes["num_classes"]), ours)
    for module in (*ours.modules(), *usual.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # so that peers agree
        if isinstance(module, (cnn.SelfAttention2D, textbook.SelfAttention2D)):
            nn.init.constant_(module.gamma, 0.5)  # as above
    return _module_peers(case, (x,), [ours, usual], {TEXTBOOK: usual, OURS: ours})


# A new mechanism adds a line here, under its name and, where that leaves something open, the case's note.
_BUILDERS: dict[tuple[str, str], Callable[[Case, torch.device], Peers]] = {
    ("multi-head-attention", "without weights"): _attention,
    ("multi-head-attention", "with weights"): _attention_with_weights,
    ("multi-head-attention", "decoding"): _decoding,
    ("transformer-block", ""): _block,
    ("sliding-window-attention", ""): _window,
    ("sliding-window-attention", "two lengths"): _window_at_two_lengths,
    ("sliding-window-attention", "beside full attention"): _lengths,
    ("channel-attention", ""): _gate_of_textbook(cnn.ChannelAttention, textbook.ChannelAttention, True),
    ("spatial-attention", ""): _gate_of_textbook(cnn.SpatialAttention, textbook.SpatialAttention, False),
    ("cbam", ""): _cbam,
    ("squeeze-and-excitation", ""): _channel_gate(cnn.SqueezeExcitation),
    ("efficient-channel-attention", ""): _channel_gate(cnn.EfficientChannelAttention),
    ("self-attention-2d", ""): _self_attention_2d,
    ("convolution", ""): _convolution,
    ("attention-cnn", ""): _attention_cnn,
    ("hybrid", ""): _hybrid,
}


# --- Peers that are not everywhere -------------------------------------------------------------------------


@cache
def timm_layers() -> tuple[type[nn.Module], type[nn.Module]]:
    """timm's `CbamModule` and `Attention`, without the rest of timm.

    timm imports torchvision, of which there is not a build for every machine, for one class that these two layers do
    not use. So timm's own front door is left out, and where torchvision is missing an empty class stands in for it.

    Raises:
        Absent: where timm is not installed.
    """
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        raise Absent("timm is not installed")
    before = dict(sys.modules)
    if "timm" not in sys.modules:
        front = types.ModuleType("timm")
        front.__path__ = list(found.submodule_search_locations)
        sys.modules["timm"] = front
    stand_ins = []
    if importlib.util.find_spec("torchvision") is None:
        stand_ins = ["torchvision", "torchvision.ops", "torchvision.ops.misc"]
        for name in stand_ins:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = []
        sys.modules[stand_ins[-1]].FrozenBatchNorm2d = type("FrozenBatchNorm2d", (nn.Module,), {})  # type: ignore[attr-defined]
    try:
        from timm.layers.attention import Attention
        from timm.layers.cbam import CbamModule
    except Exception as error:
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] == "timm":
                del sys.modules[name]
        raise Absent(f"timm cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        for name in stand_ins:
            del sys.modules[name]
        if "timm" not in before:
            sys.modules.pop("timm", None)  # whoever imports timm later gets the whole of it
    return CbamModule, Attention


def _timm_cbam(ours: cnn.CBAM, x: tuple[Tensor, ...]) -> tuple[Callable[..., Tensor], list[nn.Module]]:
    """With our parameters, and without the batch normalisation behind its spatial convolution, which ours lacks."""
    kind, _ = timm_layers()
    fc: Any = ours.channel_attention.fc
    channels = x[0].shape[1]
    theirs: Any = kind(channels, rd_channels=len(fc[0].weight))
    theirs.spatial.conv.bn = nn.Identity()
    first, second = fc[0].weight.data, fc[2].weight.data
    theirs.channel.fc1.weight.data = first.reshape(theirs.channel.fc1.weight.shape).clone()
    theirs.channel.fc2.weight.data = second.reshape(theirs.channel.fc2.weight.shape).clone()
    theirs.spatial.conv.conv.weight.data = ours.spatial_attention.conv.weight.data.clone()
    theirs = theirs.to(x[0].device, x[0].dtype)
    return theirs, [theirs]


def _timm_attention(
    ours: MultiHeadAttention, x: tuple[Tensor, ...]
) -> tuple[Callable[..., Tensor], list[nn.Module]]:
    _, kind = timm_layers()
    theirs: Any = kind(ours.d_model, ours.num_heads, qkv_bias=True)
    projections = (ours.w_q, ours.w_k, ours.w_v)
    theirs.qkv.weight.data = torch.cat([w.weight.data for w in projections])
    theirs.qkv.bias.data = torch.cat([w.bias.data for w in projections])
    theirs.proj.load_state_dict(ours.w_o.state_dict())
    theirs = theirs.to(x[0].device, x[0].dtype)
    return theirs, [theirs]


def _local_attention(window: int, x: tuple[Tensor, ...]) -> tuple[Callable[..., Tensor], list[nn.Module]]:
    """At equal pairs: `|query - key| ≤ window`, and nothing turned by positions."""
    try:
        from local_attention import LocalAttention
    except ImportError as error:
        raise Absent("local-attention is not installed") from error
    theirs = LocalAttention(
        window_size=window,
        causal=False,
        look_backward=1,
        look_forward=1,
        dropout=0.0,
        autopad=True,
        exact_windowsize=True,
        use_rotary_pos_emb=False,
    ).to(x[0].device)
    return theirs, [theirs]


def _flex_attention(
    case: Case, q: Tensor, window: int, x: tuple[Tensor, ...]
) -> tuple[Callable[..., Tensor], list[nn.Module]]:
    """Compiled: as it comes it is several times slower than dense attention."""
    if case.mode == "training" and q.device.type == "cpu":
        raise Absent("FlexAttention has no backward pass on a CPU")
    try:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    except ImportError as error:
        raise Absent("this torch has no FlexAttention") from error
    n = q.shape[-2]

    def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query - key).abs() <= window

    block_mask = create_block_mask(near, None, None, n, n, device=str(q.device))
    flex: Any = _compiled(flex_attention, x)[0]
    return lambda q, k, v: flex(q, k, v, block_mask=block_mask), []


def _compiled(module: Any, x: tuple[Tensor, ...]) -> tuple[Callable[..., Tensor], list[nn.Module]]:
    """`torch.compile` of it. On a CPU that takes a C++ compiler; its first call shows whether one is there.

    From nothing: what is compiled for other sizes counts, and behind the eighth torch would silently run it as it is.
    """
    torch.compiler.reset()
    return torch.compile(module, dynamic=False), []


# --- What they share ---------------------------------------------------------------------------------------


def _module_peers(
    case: Case,
    inputs: tuple[Tensor, ...],
    modules: Iterable[nn.Module],
    calls: Mapping[str, Callable[..., Any]],
    optional: Mapping[str, Callable[[tuple[Tensor, ...]], tuple[Callable[..., Any], list[nn.Module]]]]
    | None = None,
) -> Peers:
    """What runs each call on the inputs in inference, or forward and backward; optional peers where they can be had."""
    calls, everything, absent = dict(calls), list(modules), {}
    for name, make in (optional or {}).items():
        if name in (COMPILED, FLEX) and not case.compiled:
            absent[name] = "left out of this preset: compiling takes longer than all the rest of it"
            continue
        try:
            calls[name], more = make(inputs)
            everything += more
        except Absent as reason:
            absent[name] = str(reason)
    for module in everything:
        module.train(case.mode == "training")
    gradients: dict[str, Tensor] = {}

    def forward(call: Callable[..., Any]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            output = call(*inputs)
        return output if isinstance(output, tuple) else (output,)

    def training(call: Callable[..., Any]) -> tuple[Tensor, ...]:
        entries = [x.detach().requires_grad_() for x in inputs]
        output = call(*entries)
        outputs = output if isinstance(output, tuple) else (output,)
        if "output" not in gradients:
            gradients["output"] = torch.randn_like(outputs[0])
        outputs[0].backward(gradients["output"])
        for module in everything:
            module.zero_grad()
        return outputs[0].detach(), *(entry.grad for entry in entries if entry.grad is not None)

    run = training if case.mode == "training" else forward
    return Peers({name: partial(run, call) for name, call in calls.items()}, absent)


def _copy(module: nn.Module, source: nn.Module) -> nn.Module:
    """The module with the source's parameters, on its device."""
    module.load_state_dict(source.state_dict())
    parameter = next(source.parameters())
    return module.to(parameter.device, parameter.dtype)


def _attention_and_input(case: Case, device: torch.device) -> tuple[MultiHeadAttention, Tensor]:
    """Without dropout, so that peers agree, and as SDPA on a CPU is fused without it only."""
    batch, n, d_model, num_heads = (case.sizes[key] for key in ("batch", "n_q", "d_model", "num_heads"))
    ours = MultiHeadAttention(d_model, num_heads, dropout=0.0).to(device, _dtype(case))
    return ours, torch.randn(batch, n, d_model, device=device, dtype=_dtype(case))


def _torch_attention(source: MultiHeadAttention) -> nn.MultiheadAttention:
    """`nn.MultiheadAttention` with the parameters of ours."""
    other = nn.MultiheadAttention(source.d_model, source.num_heads, batch_first=True)
    projections = (source.w_q, source.w_k, source.w_v)
    state = {
        "in_proj_weight": torch.cat([w.weight for w in projections]),
        "in_proj_bias": torch.cat([w.bias for w in projections]),
        "out_proj.weight": source.w_o.weight,
        "out_proj.bias": source.w_o.bias,
    }
    other.load_state_dict(state)
    return other.to(source.w_o.weight.device, source.w_o.weight.dtype)


def _heads(case: Case, device: torch.device) -> list[Tensor]:
    shape = [case.sizes[key] for key in ("batch", "num_heads", "n", "d_k")]
    return [torch.randn(shape, device=device, dtype=_dtype(case)) for _ in range(3)]


def _feature_map(case: Case, device: torch.device, channels: int | None = None) -> Tensor:
    channels = case.sizes["channels"] if channels is None else channels
    shape = (case.sizes["batch"], channels, case.sizes["height"], case.sizes["width"])
    return torch.randn(shape, device=device, dtype=_dtype(case))


def _dtype(case: Case) -> torch.dtype:
    return getattr(torch, case.dtype)
