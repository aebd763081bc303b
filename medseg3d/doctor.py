"""What a bug report needs to know of a machine and an installation, without the paths and names of its owner."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from typing import Any

import psutil
import torch

from medseg3d.bundle_folders import INSTALLED, REPOSITORY, bundle_names, shipped_weights, source_folder
from medseg3d.errors import UserError
from medseg3d.precision import resolved
from medseg3d.training.evaluation import versions

SOUND = "sound"
"""State of weights whose SHA-256 is the one in the file next to them."""

_VARIABLES = re.compile(r"^(OMP|MKL|KMP|OPENBLAS|CUDA|NVIDIA|PYTORCH|TORCH|MONAI|MEDSEG3D)_|^(NCCL|ITK)_\w*THREADS?")


def examine() -> dict[str, Any]:
    """Versions, platform, processor, GPUs, memory, disk, extras, bundles and variables, in plain values for JSON."""
    memory = psutil.virtual_memory()
    return {
        "versions": versions(),
        "installation": _installation(),
        "platform": f"{platform.platform()}, {platform.machine()}",
        "processor": _processor(),
        "gpus": [_gpu(number) for number in range(torch.cuda.device_count())],
        "memory_gb": {"total": _gb(memory.total), "available": _gb(memory.available)},
        "disk_gb": {"free here": _gb(shutil.disk_usage(".").free)},
        "extras": _extras(),
        "bundles": {name: _weights(name) for name in bundle_names()},
        "environment": {name: _value(text) for name, text in sorted(os.environ.items()) if _VARIABLES.match(name)},
    }


def _installation() -> str:
    if INSTALLED.is_dir():
        return "from a wheel"
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "from a clone without git"
    return f"from a clone at {commit}"


def _processor() -> dict[str, Any]:
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "name": _processor_name(),
        "cores": psutil.cpu_count(logical=False),
        "threads": os.cpu_count(),
        "threads of torch": torch.get_num_threads(),
        "vector instructions": capability if capability != "DEFAULT" else "none that torch uses",
        "precision": _precision(torch.device("cpu")),
    }


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            found = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:  # macOS and Windows have none
        found = None
    return found.group(1) if found else platform.processor() or "unknown"


def _gpu(number: int) -> dict[str, Any]:
    about = torch.cuda.get_device_properties(number)
    return {
        "name": about.name,
        "memory_gb": _gb(about.total_memory),
        "compute capability": f"{about.major}.{about.minor}",
        "CUDA of torch": torch.version.cuda,
        "precision": _precision(torch.device("cuda", number)),
    }


def _precision(device: torch.device) -> str:
    chosen = resolved("auto", device)
    return f"{chosen.name}: {chosen.reason}"


def _extras() -> dict[str, dict[str, str]]:
    """Extra -> package -> its version, or "missing"; nothing where medseg3d itself is no installed package."""
    try:
        requirements = importlib.metadata.requires("medseg3d") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, dict[str, str]] = {}
    for requirement in requirements:
        match = re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", requirement)
        if match and match[1] != "medseg3d":
            found.setdefault(match[2], {})[match[1]] = _version_or_missing(match[1])
    return found


def _version_or_missing(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _weights(name: str) -> dict[str, str]:
    """What a bundle ships, and whether its sum is the one next to it."""
    try:
        weights = shipped_weights(source_folder(name))
    except UserError as error:
        return {"weights": error.code, "state": "missing"}
    if weights is None:
        return {"weights": "none"}
    listed = weights.file.with_name(f"{weights.file.name}.sha256")
    good = listed.is_file() and listed.read_text(encoding="utf-8").split()[:1] == [weights.sha256]
    return {"weights": weights.overlay, "sha256": weights.sha256[:12], "state": SOUND if good else "damaged"}


def _value(text: str) -> str:
    """The value of a variable, unless it is a path or a name of the owner's."""
    return text if re.fullmatch(r"[\w.,:=+-]*", text) else "(set)"


def _gb(number: int) -> float:
    return round(number / 2**30, 1)
