"""Which machine and which versions a number was made on."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

VERSIONS_OF = ("torch", "numpy", "matplotlib", "seaborn", "scikit-learn")
"""The packages whose version stands beside a number."""

_CPUS = Path("/sys/devices/system/cpu")
_CPUINFO = Path("/proc/cpuinfo")


def describe() -> str:
    """This machine in a few words: its GPU if torch can use one, else processor, cores and memory."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB of GPU memory"
    parts = [processor(), f"{cores()} cores"]
    memory = memory_bytes()
    if memory:
        parts.append(f"{memory / 2**30:.0f} GiB of memory")
    return ", ".join(parts) + ", no GPU"


def default_device() -> str:
    """Where a benchmark runs unless told otherwise: ``"cuda"`` if torch can use it, else ``"cpu"``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def slug(device: str = "cpu") -> str:
    """This machine as the stem of a file's name: ``amd-epyc-2-cores``, ``nvidia-t4``."""
    import torch

    gpu = str(device).startswith("cuda") and torch.cuda.is_available()
    words = torch.cuda.get_device_name(device) if gpu else f"{processor()} {cores()} cores"
    words = re.sub(r"\((R|TM)\)|@.*?Hz|\bCPU\b", " ", words, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def versions(names: Sequence[str] = VERSIONS_OF) -> dict[str, str]:
    """Name to version: Python, and those of ``names`` that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
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


def processor() -> str:
    """The processor's name."""
    for line in _read(_CPUINFO).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    name = _answer(["sysctl", "-n", "machdep.cpu.brand_string"]) if sys.platform == "darwin" else ""
    return name or platform.processor() or platform.machine()


def results_folder() -> Path:
    """``results/`` of the repository, or of the installed package where there is no repository around it."""
    package = Path(__file__).resolve().parent
    repository = package.parent / "results"
    return repository if repository.is_dir() else package / "_results"


def commit() -> dict[str, Any] | None:
    """``{"hash", "dirty"}`` of the checkout that the package lies in, or None where it lies in none.

    ``dirty`` says that files of the package differ from that commit; what else differs takes no part in a number.
    """
    package = Path(__file__).resolve().parent
    git = ["git", "-C", str(package)]
    where = _answer([*git, "rev-parse", "--show-toplevel", "HEAD"]).splitlines()
    if len(where) != 2 or Path(where[0]).resolve() != package.parent:  # some other repository around it
        return None
    changed = _answer([*git, "status", "--porcelain", "--untracked-files=all", "--", str(package)])
    return {"hash": where[1], "dirty": bool(changed)}


def clock() -> dict[str, Any]:
    """What the processor's clock does now: ``{"governor", "mhz"}``, None where the system does not say.

    Linux only. ``governor`` is the power policy (cpufreq), ``mhz`` the mean over the cores at this moment.
    """
    governors = sorted({_read(path) for path in _CPUS.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {""})
    now = [_read(path) for path in _CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    mhz = [int(value) / 1000 for value in now if value.isdecimal()]
    mhz = mhz or [
        float(value) for value in re.findall(r"^cpu MHz\s*: ([\d.]+)$", _read(_CPUINFO), re.MULTILINE)
    ]
    return {"governor": ", ".join(governors) or None, "mhz": round(sum(mhz) / len(mhz)) if mhz else None}


def gpu(device: str = "cuda") -> dict[str, Any]:
    """A GPU's name and memory, and, where nvidia-smi tells, driver, clocks, power limit and persistence mode."""
    import torch

    properties = torch.cuda.get_device_properties(device)
    found: dict[str, Any] = {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "driver": None,
        "clock_mhz": None,
        "clock_max_mhz": None,
        "power_limit_w": None,
        "performance_state": None,
    }
    asked = "driver_version,clocks.sm,clocks.max.sm,power.limit,pstate"
    which = str(getattr(properties, "uuid", "")) or "0"
    which = which if which.isdecimal() or which.startswith("GPU-") else f"GPU-{which}"
    line = _answer(["nvidia-smi", f"--id={which}", f"--query-gpu={asked}", "--format=csv,noheader,nounits"])
    values = [value.strip() for value in line.split(",")]
    if len(values) == 5:
        found["driver"] = values[0]
        for name, value in zip(("clock_mhz", "clock_max_mhz", "power_limit_w"), values[1:4], strict=True):
            found[name] = float(value) if re.fullmatch(r"\d+(\.\d+)?", value) else None
        found["performance_state"] = values[4]
    return found


def huge_pages() -> str | None:
    """The kernel's setting for transparent huge pages (``always``, ``madvise``, ``never``), None but on Linux."""
    chosen = re.search(r"\[(\w+)\]", _read(Path("/sys/kernel/mm/transparent_hugepage/enabled")))
    return chosen[1] if chosen else None


def compiler() -> str | None:
    """The C++ compiler that ``torch.compile`` would call on a CPU, in one line, or None."""
    names = [os.environ.get("CXX", ""), "g++", "clang++"]
    if sys.platform == "darwin":
        names.insert(1, "clang++")
    for name in filter(None, names):
        lines = _answer([*name.split(), "--version"]).splitlines()
        if lines:
            return lines[0]
    return None


def _read(path: Path) -> str:
    """A file's text without the last line's end, or nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _answer(command: Sequence[str]) -> str:
    """What a command prints, or nothing where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


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
