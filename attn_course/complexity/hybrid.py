"""`HybridAttentionModel`: convolutions, then a transformer."""

from __future__ import annotations

from dataclasses import replace

from .cnn import backbone_parts, backbone_steps, sum_of_parts
from .core import Cost, in_bytes
from .memory import Memory, Table, peaks
from .transformer import block_steps, transformer_block


def hybrid(
    *,
    batch: int,
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    positions: bool = True,
    embed_dim: int = 256,
    depth: int = 3,
    num_heads: int = 8,
    grid_height: int = 8,
    grid_width: int = 8,
    dtype: str = "float32",
) -> Cost:
    """`HybridAttentionModel`, with a `gamma` other than 0; its peak in training with the dropout that it has.

    `embed_dim` is the model's `width`, `grid_height` and `grid_width` are its `grid`.
    """
    if min(height, width) < 4:
        raise ValueError(f"height and width must be at least 4, got {height} x {width}")
    if embed_dim % 4 or embed_dim % num_heads:
        raise ValueError(
            f"4 and num_heads must divide embed_dim, got embed_dim = {embed_dim} and num_heads = {num_heads}"
        )
    widths = (embed_dim // 4, embed_dim // 2, embed_dim)
    n = grid_height * grid_width
    tokens = batch * n * embed_dim
    parts, size = backbone_parts((batch, channels, height, width), dtype, widths)
    read = _cell_reads(size[0], grid_height) * _cell_reads(size[1], grid_width)
    parts["cells"] = (batch * embed_dim * read, batch * embed_dim * size[0] * size[1] + tokens)
    if positions:
        parts["positions"] = (tokens, 2 * tokens + n * embed_dim)
    block = transformer_block(
        batch=batch, n=n, d_model=embed_dim, num_heads=num_heads, d_ff=4 * embed_dim, dtype=dtype, fused=True
    )
    block = replace(block, training_flops=3 * block.flops)  # torch's kernel for a CPU has no dropout
    for index in range(1, depth + 1):
        parts[f"block{index}"] = block
    sizes = {
        "batch": batch,
        "channels": channels,
        "height": height,
        "width": width,
        "num_classes": num_classes,
    }
    shape = {
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": num_heads,
        "grid_height": grid_height,
        "grid_width": grid_width,
    }

    def steps(memory: Memory, x: Table) -> tuple[Table, ...]:
        x = backbone_steps(memory, x, (batch, channels, height, width), widths)
        x = memory.mean_of_cells(x, tokens)
        if positions:
            x = memory.add_parameter(x, n * embed_dim)
        for index in range(depth):
            (x,) = block_steps(
                memory,
                x,
                batch=batch,
                n=n,
                d_model=embed_dim,
                num_heads=num_heads,
                d_ff=4 * embed_dim,
                num_kv_heads=num_heads,
                fused=True,
                dropout=True,
                strided=index == 0,
            )
        return (memory.linear(memory.mean(x, batch * embed_dim), batch, embed_dim, num_classes),)

    classifier = (embed_dim + 1) * num_classes
    return sum_of_parts(
        "hybrid",
        {**sizes, **shape, "positions": positions, "dtype": dtype},
        parts,
        terms={"classifier": 2 * batch * embed_dim * num_classes},
        elementwise_terms={"mean": tokens, "classifier bias": batch * num_classes},
        parameters=classifier + positions * n * embed_dim,
        moved_terms=in_bytes(
            {
                "mean": tokens + batch * embed_dim,
                "classifier": batch * embed_dim + classifier + batch * num_classes,
            },
            dtype,
        ),
        peak=peaks(dtype, steps, batch * channels * height * width),
    )


def _cell_reads(size: int, cells: int) -> int:
    """Rows (or columns) that the cells read together: one begins at `⌊i·size/cells⌋`, ends at `⌈(i+1)·size/cells⌉`."""
    return sum(-(-(i + 1) * size // cells) - i * size // cells for i in range(cells))
