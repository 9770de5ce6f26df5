"""Which machine and which versions a number was made on."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

VERSIONS_OF = ("torch", "numpy", "matplotlib", "seaborn", "scikit-learn")
"""The packages whose version stands beside a number."""


def describe() -> str:
    """This machine in a few words: its GPU if torch can use one, else processor, cores and memory."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB of GPU memory"
    parts = [_processor(), f"{cores()} cores"]
    memory = memory_bytes()
    if memory:
        parts.append(f"{memory / 2**30:.0f} GiB of memory")
    return ", ".join(parts) + ", no GPU"


def versions() -> dict[str, str]:
    """Name to version: Python and the packages of ``VERSIONS_OF`` that are installed."""
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Physical memory in bytes, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        answer = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0:
            return answer.stdout.strip()
    return platform.processor() or platform.machine()


def introduce() -> "torch.device":
    """Say in one line what the notebook runs on, and return the device to use: for the first cell of a chapter."""
    import torch

    from .training import best_device

    device = best_device()
    print(f"Python {platform.python_version()}, torch {torch.__version__}")
    print(describe())
    on_cpu = ": every cell runs, the one that trains takes under a minute"
    print(f"using {device}{on_cpu if device.type == 'cpu' else ''}")
    return device
