"""Memory, measured: the most that was alive at one moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["free_bytes", "peak_bytes"]


def peak_bytes(fn: Callable[[], object], *, device: torch.device | str = "cpu") -> int:
    """Most bytes alive at one moment of `fn()`, on top of what was there before; its result counts.

    On a CPU: the largest running sum of the allocations and releases that torch's profiler records. That
    holds every tensor, those inside a kernel too, and is the same on every run; it does not hold what a
    library takes by its own means (the scratch memory of oneDNN) nor what an allocator keeps back. On a GPU:
    the peak that the caching allocator reports for a second call, the first one having made the libraries'
    workspaces.

    Raises:
        ValueError: for a device that is neither.
    """
    device = torch.device(device)
    if device.type == "cuda":
        fn()
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        fn()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        raise ValueError(f"peak memory is measured on cpu and cuda, got {device}")
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with _quiet_profiler(), torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        result = fn()
    del result
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    alive = peak = 0
    for _, change in changes:
        alive += change
        peak = max(peak, alive)
    return peak


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Keep the profiler's own messages, with the time of day, out of what a notebook stores."""
    name = "KINETO_LOG_LEVEL"
    added = name not in os.environ
    os.environ.setdefault(name, "99")
    try:
        yield
    finally:
        if added:
            os.environ.pop(name, None)


def free_bytes(device: torch.device | str = "cpu") -> int | None:
    """Bytes that can still be allocated on a device, or None where the system does not say.

    On a CPU: what Linux calls available, or what a container's limit leaves, whichever is less. On a GPU: what the
    driver has free and what torch's allocator keeps without using.
    """
    device = torch.device(device)
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    left = [_available(Path("/proc/meminfo")), _container(Path("/sys/fs/cgroup"))]
    known = [value for value in left if value is not None]
    return min(known, default=None)


def _available(meminfo: Path) -> int | None:
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _container(folder: Path) -> int | None:
    """What a control group's limit leaves; the file cache counts as used, so this is on the safe side."""
    try:
        most, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return None if most == "max" else max(0, int(most) - int(used))
