"""The facts of the machine that a measurement was made on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil


def machine_facts() -> dict[str, str | int | float]:
    """Processor, cores, memory, load and the versions of what does the arithmetic."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "opencv": version("opencv-python-headless"),
        "onnxruntime": version("onnxruntime"),
    }


def pin_to_single_core() -> None:
    """Keep this process, and those it starts, on one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or "unknown"
