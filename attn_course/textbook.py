"""Each mechanism the way it is usually written, its mistakes included.

Chapters break these in front of the reader, tests show on them that a check is able to fail, and benchmarks take
them as the baseline. They have the sub-module names, and therefore the ``state_dict``, of the package's own classes.
The comment ``Trap:`` stands at every line that goes wrong for some input. Do not use them for anything else.
"""

import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --- Transformer ------------------------------------------------------------------------------------------------


class MultiHeadAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.1):
        super().__init__()
        assert d_model % num_heads == 0  # Trap: gone under `python -O`, and it names no numbers.
        self.d_model, self.num_heads, self.d_k = d_model, num_heads, d_model // num_heads
        self.w_q = nn.Linear(d_model, d_model)
        self.w_k = nn.Linear(d_model, d_model)
        self.w_v = nn.Linear(d_model, d_model)
        self.w_o = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def scaled_dot_product_attention(
        self, Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        scores = Q @ K.transpose(-2, -1) / math.sqrt(self.d_k)
        if mask is not None:
            scores = scores.masked_fill(
                mask == 0, -1e9
            )  # Trap: float16 has no -1e9; an empty row becomes a mean.
        weights = self.dropout(scores.softmax(dim=-1))  # Trap: what is returned below is after dropout.
        return weights @ V, weights

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        batch, length = query.shape[:2]

        def heads(x: Tensor) -> Tensor:
            return x.view(batch, length, self.num_heads, self.d_k).transpose(
                1, 2
            )  # Trap: keys have another length.

        output, weights = self.scaled_dot_product_attention(
            heads(self.w_q(query)), heads(self.w_k(key)), heads(self.w_v(value)), mask
        )
        output = output.transpose(1, 2).contiguous().view(batch, length, self.d_model)
        return self.w_o(output), weights


class TransformerBlock(nn.Module):
    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float = 0.1):
        super().__init__()
        self.attention = MultiHeadAttention(d_model, num_heads, dropout)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, d_ff), nn.ReLU(), nn.Dropout(dropout), nn.Linear(d_ff, d_model)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        attended, weights = self.attention(x, x, x, mask)
        x = self.norm1(x + self.dropout(attended))
        x = self.norm2(x + self.dropout(self.feed_forward(x)))
        return x, weights


class PositionalEncoding(nn.Module):
    def __init__(self, d_model: int, max_len: int = 5000):
        super().__init__()
        position = torch.arange(max_len).unsqueeze(1).float()
        # Trap: the angles are float32, so the table is off by 4e-4 at position 5000.
        rate = torch.exp(torch.arange(0, d_model, 2).float() * -(math.log(10000.0) / d_model))
        pe = torch.zeros(max_len, d_model)
        pe[:, 0::2] = torch.sin(position * rate)
        pe[:, 1::2] = torch.cos(position * rate)  # Trap: one column too many for an odd width.
        self.register_buffer("pe", pe.unsqueeze(0))
        self.pe: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return (
            x + self.pe[:, : x.shape[1]]
        )  # Trap: bfloat16 in, float32 out; too long a sequence fails obscurely.


def apply_rotary(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    width = x.shape[-1]
    angle = positions[:, None] * base ** -(torch.arange(0, width, 2) / width)
    angle = angle.repeat_interleave(2, dim=-1)  # Trap: angles for pairs of neighbours …
    first, second = x.chunk(2, dim=-1)
    partner = torch.cat([-second, first], dim=-1)  # Trap: … and partners for halves: no rotation any more.
    return x * angle.cos() + partner * angle.sin()


class RotaryEmbedding(nn.Module):
    def __init__(self, d_k: int, base: float = 10000.0):
        super().__init__()
        self.register_buffer("inv_freq", base ** -(torch.arange(0, d_k, 2) / d_k))
        self.inv_freq: Tensor

    def forward(self, x: Tensor) -> Tensor:
        # Trap: after `.bfloat16()` the positions are bfloat16 too, which has no number between 256 and 258.
        positions = torch.arange(x.shape[-2], device=x.device, dtype=self.inv_freq.dtype)
        angle = torch.outer(positions, self.inv_freq)
        angle = torch.cat([angle, angle], dim=-1)
        first, second = x.chunk(2, dim=-1)
        return x * angle.cos() + torch.cat([-second, first], dim=-1) * angle.sin()


def alibi_bias(num_heads: int, n: int) -> Tensor:
    slopes = 2.0 ** (-8 * torch.arange(1, num_heads + 1) / num_heads)
    # Trap: minus the distance, shifted by a constant in each row, only as long as every key is an earlier one.
    return (slopes[:, None, None] * torch.arange(n)).expand(num_heads, n, n)


# --- CNN --------------------------------------------------------------------------------------------------------


class SpatialAttention(nn.Module):
    def __init__(self, kernel_size: int = 7):
        super().__init__()
        # Trap: an even kernel gives a map of another size, noticed only when it is multiplied.
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        average = x.mean(dim=1, keepdim=True)
        maximum, _ = x.max(dim=1, keepdim=True)
        return x * self.sigmoid(self.conv(torch.cat([average, maximum], dim=1)))


class ChannelAttention(nn.Module):
    def __init__(self, in_channels: int, reduction_ratio: int = 16):
        super().__init__()
        hidden = in_channels // reduction_ratio  # Trap: 0 for fewer channels than the ratio.
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.max_pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(in_channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, in_channels, bias=False)
        )
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        b, c = x.shape[:2]
        average = self.fc(self.avg_pool(x).view(b, c))
        maximum = self.fc(self.max_pool(x).view(b, c))
        return x * self.sigmoid(average + maximum).view(b, c, 1, 1)


class CBAM(nn.Module):
    def __init__(self, in_channels: int, reduction_ratio: int = 16, kernel_size: int = 7):
        super().__init__()
        self.channel_attention = ChannelAttention(in_channels, reduction_ratio)
        self.spatial_attention = SpatialAttention(kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial_attention(self.channel_attention(x))


class SelfAttention2D(nn.Module):
    def __init__(self, in_channels: int):
        super().__init__()
        self.in_channels = in_channels
        self.query_conv = nn.Conv2d(in_channels, in_channels // 8, 1)  # Trap: 0 channels below width 8.
        self.key_conv = nn.Conv2d(in_channels, in_channels // 8, 1)
        self.value_conv = nn.Conv2d(in_channels, in_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        query = self.query_conv(x).view(b, -1, height * width).permute(0, 2, 1)
        key = self.key_conv(x).view(b, -1, height * width)
        value = self.value_conv(x).view(b, -1, height * width)
        weights = self.softmax(torch.bmm(query, key))  # Trap: the whole n x n map, twice, whatever gamma is.
        out = torch.bmm(value, weights.permute(0, 2, 1)).view(b, c, height, width)
        return self.gamma * out + x


class AttentionCNN(nn.Module):
    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1)
        self.cbam1 = CBAM(64)
        self.conv2 = nn.Conv2d(64, 128, 3, padding=1)
        self.cbam2 = CBAM(128)
        self.conv3 = nn.Conv2d(128, 256, 3, padding=1)
        self.self_attention = SelfAttention2D(256)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.cbam1(F.relu(self.conv1(x))), 2)
        x = F.max_pool2d(self.cbam2(F.relu(self.conv2(x))), 2)
        x = F.max_pool2d(self.self_attention(F.relu(self.conv3(x))), 2)
        return self.classifier(self.pool(x).flatten(1))


# --- Hybrid -----------------------------------------------------------------------------------------------------


def create_hybrid_model(input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    class HybridAttentionModel(nn.Module):  # Trap: a class inside a function cannot be pickled.
        def __init__(self, input_shape: tuple[int, int, int], num_classes: int):
            super().__init__()
            self.cnn_backbone = nn.Sequential(
                nn.Conv2d(input_shape[0], 64, 3, padding=1),
                nn.ReLU(),
                CBAM(64),
                nn.MaxPool2d(2),
                nn.Conv2d(64, 128, 3, padding=1),
                nn.ReLU(),
                CBAM(128),
                nn.MaxPool2d(2),
                nn.Conv2d(128, 256, 3, padding=1),
                nn.ReLU(),
                SelfAttention2D(256),
            )
            self.flatten = nn.AdaptiveAvgPool2d(8)
            self.embed_dim = 256
            self.transformer = nn.Sequential(*[TransformerBlock(self.embed_dim, 8, 1024) for _ in range(3)])
            self.classifier = nn.Linear(self.embed_dim, num_classes)

        def forward(self, x: Tensor) -> Tensor:
            x = self.flatten(self.cnn_backbone(x)).flatten(2).transpose(1, 2)
            for block in self.transformer:  # Trap: no position reaches the blocks.
                x, _ = block(x)
            return self.classifier(x.mean(dim=1))

    return HybridAttentionModel(input_shape, num_classes)


# --- Costs, analysis, measurement, choice -----------------------------------------------------------------------


def attention_complexity_comparison() -> dict[str, int]:
    length, d_model, height, width, channels = 512, 512, 224, 224, 256
    # Trap: three leading terms in three different units, printed as if they could be compared.
    counts = {"transformer": length * length * d_model, "spatial": height * width, "channel": channels}
    for name, count in counts.items():
        print(f"{name} attention operations: {count:,}")
    return counts


class AttentionAnalysis:
    @staticmethod
    def analyze_transformer_attention(attention_weights: Tensor) -> dict[str, Any]:
        average = attention_weights.mean(dim=1)  # Trap: two opposite one-hot heads look undecided.
        return {
            "max_attention": average.max(dim=-1)[0],
            "attention_entropy": -torch.sum(average * torch.log(average + 1e-8), dim=-1),
            "global_connectivity": True,
            "pattern": "sequence-to-sequence",
        }

    @staticmethod
    def analyze_cnn_attention(feature_map: Tensor, attention_map: Tensor) -> dict[str, Any]:
        is_channel = attention_map.dim() == 4 and attention_map.size(2) == 1  # Trap: a map of height 1.
        return {
            "attention_type": "channel" if is_channel else "spatial",
            "local_connectivity": not is_channel,
            "pattern": "channel-selection" if is_channel else "spatial-hierarchy",
        }


class PerformanceBenchmark:
    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _mean_seconds(self, call: Any, warmup: int, repeats: int) -> float:
        for _ in range(warmup):  # Trap: training mode, and autograd keeps every activation.
            call()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.time()
        for _ in range(repeats):
            call()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.time() - start) / repeats  # Trap: one stall moves the mean.

    def benchmark_transformer_attention(
        self, batch_size: int = 32, seq_len: int = 512, d_model: int = 512, num_heads: int = 8,
        *, warmup: int = 10, repeats: int = 100,
    ) -> float:  # fmt: skip
        model = MultiHeadAttention(d_model, num_heads).to(self.device)
        x = torch.randn(batch_size, seq_len, d_model).to(self.device)
        return self._mean_seconds(lambda: model(x, x, x), warmup, repeats)

    def benchmark_cnn_attention(
        self, batch_size: int = 32, channels: int = 256, height: int = 56, width: int = 56,
        *, warmup: int = 10, repeats: int = 100,
    ) -> float:  # fmt: skip
        model = CBAM(channels).to(self.device)
        x = torch.randn(batch_size, channels, height, width).to(self.device)
        return self._mean_seconds(lambda: model(x), warmup, repeats)

    def run_comparison(self) -> dict[str, float]:
        transformer_time = self.benchmark_transformer_attention()
        cnn_time = self.benchmark_cnn_attention()
        return {
            "transformer_time": transformer_time,
            "cnn_time": cnn_time,
            "speedup": transformer_time / cnn_time,  # Trap: a ratio of two unlike workloads.
        }


def memory_comparison(
    *, batch_size: int = 32, seq_len: int = 512, d_model: int = 512, channels: int = 256, side: int = 56
) -> dict[str, float]:
    def allocated_mib() -> float:
        return torch.cuda.memory_allocated() / 2**20 if torch.cuda.is_available() else 0  # Trap: 0 on a CPU.

    def growth(model: nn.Module, *inputs: Tensor) -> float:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = model.to(device)
        inputs = tuple(x.to(device) for x in inputs)
        before = allocated_mib()
        _ = model(*inputs)
        return allocated_mib() - before  # Trap: what is still alive, not the peak.

    x = torch.randn(batch_size, seq_len, d_model)
    image = torch.randn(batch_size, channels, side, side)
    return {
        "transformer_memory": growth(MultiHeadAttention(d_model, 8), x, x, x),
        "cnn_memory": growth(CBAM(channels), image),
    }


class AttentionSelector:
    @staticmethod
    def recommend_attention_type(
        data_type: str,
        sequence_length: int | None = None,
        spatial_dims: tuple[int, int] | None = None,
        computational_budget: str = "medium",
        task_type: str = "classification",  # Trap: never looked at.
    ) -> list[dict[str, str]]:
        def entry(kind: str, reason: str, implementation: str) -> list[dict[str, str]]:
            return [{"type": kind, "reason": reason, "implementation": implementation}]

        if data_type == "sequential":
            if sequence_length and sequence_length > 1000 and computational_budget == "low":
                return entry("Local Attention", "long sequence, small budget", "sliding_window_attention")
            return entry("Transformer Self-Attention", "global context", "MultiHeadAttention")
        if data_type == "spatial":
            if spatial_dims and spatial_dims[0] * spatial_dims[1] > 224 * 224:
                return entry("CNN Spatial + Channel Attention", "high resolution", "CBAM")
            # Trap: at 224 x 224 the score matrix alone takes 9.4 GiB an image.
            return entry("CNN Self-Attention", "moderate resolution, global context", "SelfAttention2D")
        if data_type == "mixed":
            return entry("Hybrid Attention", "sequence and space", "transformer_cnn_hybrid")
        return []  # Trap: an unknown kind of data is answered with nothing.

    create_hybrid_model = staticmethod(create_hybrid_model)
