"""What this machine can do and what a prediction makes of it: its limits, the engines, the stages from file to file."""

from __future__ import annotations

import datetime
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import psutil
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image
from torch import nn

from medseg3d.bundle import read_config
from medseg3d.bundle_folders import bundle_directory, bundle_folder, config_files
from medseg3d.errors import UserError
from medseg3d.files.tensors import save_tensors
from medseg3d.inference import CasePredictor, SlidingWindow
from medseg3d.inference.backends import Forward, difference, make_engine
from medseg3d.inference.engines import in_turns
from medseg3d.inference.exports import versions_of
from medseg3d.machine import processor
from medseg3d.networks.costs import network_costs
from medseg3d.networks.memory_format import channels_last
from medseg3d.phantoms.ct import make_phantom
from medseg3d.phantoms.polyps import make_polyp_phantom
from medseg3d.precision import Precision
from medseg3d.training.evaluation import command_line

PRECISIONS = ("float32", "bfloat16")
STAGES = ("read", "preprocess", "network", "restore", "write")
_MATRIX = 2048  # rows and columns
_FILE_MIB = 256
_SECONDS = 1.0


def bench(
    predictor: CasePredictor,
    *,
    engines: Sequence[str] = ("torch", "openvino", "onnxruntime"),
    rounds: int = 5,
) -> dict[str, Any]:
    """Measure this machine with the network of a predictor of one case, as plain JSON values.

    Everything is in this process and with torch's number of threads. Engines take turns in every round, so that what
    else the machine does hits all of them; rates of the machine are the best that is seen, times are medians.

    Args:
        predictor: on the CPU, with sliding windows and one item, for instance `medseg3d.workflows.case_predictor`'s;
            the engine of its windows is that of the stages.
        engines: which to try; one that cannot is listed with why.
        rounds: how often each is timed.

    Returns:
        `machine`, `versions`, `limits` (`gemm` and `convolution` in GFLOP/s by precision, `write` and `read` in MiB/s),
        `network`, `engines` (rows with `seconds` per batch of windows, `gflops`, `share` of the machine's convolution
        limit, `difference` from float32), `image` and `stages` (seconds from file to file).
    """
    load = os.getloadavg()[0]
    (item,) = getattr(predictor.dataset, "data", predictor.dataset)
    network: Any = predictor.network
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        stages, windows = _stages(predictor, item)
        limits = machine_limits(windows.ndim - 2, Path(folder))
        costs = network_costs(network, windows.shape[1:])
        flop = 2 * costs.macs * len(windows)
        rows = engine_rows(network, windows, engines, rounds, flop, limits["convolution"])
    return {
        "version": 1,
        "date": datetime.date.today().isoformat(),
        "command": command_line(sys.argv),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        },
        "versions": versions_of("torch", "monai", "openvino", "onnxruntime"),
        "limits": limits,
        "network": {
            "class": type(network).__name__,
            "parameters": costs.parameters,
            "weights": getattr(network, "weights_sha256", ""),
            "windows": list(windows.shape),
            "gflop": round(flop / 1e9, 3),
        },
        "engines": rows,
        "image": {"name": Path(item["image"]).name, "shape": stages.pop("shape")},
        "stages": stages,
    }


def random_weights(bundle: str | Path, overlays: Sequence[str], knobs: Mapping[str, Any], file: str | Path) -> None:
    """Write a file of the weights with which a bundle's network begins, always the same."""
    folder = bundle_folder(bundle)
    with bundle_directory(folder):
        parser = read_config(config_files(folder, "inference.json", overlays), knobs)
        parser.parse()
        torch.manual_seed(0)
        network = parser.get_parsed_content("network_def")
    save_tensors(file, network.state_dict())


def phantom_image(bundle: str | Path, folder: str | Path) -> Path:
    """A generated image of the kind that a bundle takes, in a folder."""
    with bundle_directory(bundle_folder(bundle)):
        parser = read_config(config_files(bundle_folder(bundle), "inference.json"))
        volumes = ".nii.gz" in parser.get_parsed_content("image_suffixes")
    file = Path(folder) / ("phantom.nii.gz" if volumes else "phantom.png")
    if volumes:
        ct = make_phantom(0)
        nib.save(nib.Nifti1Image(ct.ct, ct.affine), file)
    else:
        Image.fromarray(make_polyp_phantom(0).picture).save(file)
    return file


def machine_limits(spatial_dims: int, folder: Path) -> dict[str, Any]:
    """The highest rates seen: of a matrix product and a 3x3(x3) convolution, GFLOP/s, and of a file, MiB/s.

    A file of 256 MiB is written, flushed to the disk, and read back, as far as the system lets go of what it has just
    written; where it does not, the reading is that of memory.
    """
    side, channels = (160, 64) if spatial_dims == 2 else (48, 32)
    weight = torch.rand(channels, channels, *[3] * spatial_dims)
    image = channels_last(torch.rand(1, channels, *[side] * spatial_dims))
    convolve = nn.functional.conv2d if spatial_dims == 2 else nn.functional.conv3d
    matrix = torch.rand(_MATRIX, _MATRIX)
    limits: dict[str, Any] = {"gemm": {}, "convolution": {}}
    for name in PRECISIONS:
        dtype = Precision(name).dtype or torch.float32
        factor, inputs, weights = matrix.to(dtype), image.to(dtype), channels_last(weight.to(dtype))
        flop = 2 * channels**2 * 3**spatial_dims * side**spatial_dims
        limits["gemm"][name] = _rate(partial(torch.mm, factor, factor), 2 * _MATRIX**3)
        limits["convolution"][name] = _rate(partial(convolve, inputs, weights, padding=1), flop)
    return limits | _file_rates(folder / "file")


def engine_rows(
    network: nn.Module,
    windows: torch.Tensor,
    engines: Sequence[str],
    rounds: int,
    flop: float,
    convolution: Mapping[str, float],
) -> list[dict[str, Any]]:
    """A row for each engine and precision: seconds per batch, rate, share of the limit, difference from float32."""
    forwards: dict[tuple[str, str], Forward] = {}
    rows: list[dict[str, Any]] = []
    for name in engines:
        for precision in PRECISIONS:
            try:
                forwards[name, precision] = make_engine(name, network, windows, Precision(precision))
            except UserError as error:
                rows.append({"engine": name, "precision": precision, "left_out": str(error)})
    times = in_turns(forwards, windows, rounds)
    measured = []
    for (name, precision), seconds in times.items():
        gflops = flop / statistics.median(seconds) / 1e9
        measured.append(
            {
                "engine": name,
                "precision": precision,
                "seconds": [round(value, 5) for value in seconds],
                "median": round(statistics.median(seconds), 5),
                "gflops": round(gflops, 1),
                "share": round(gflops / convolution[precision], 3),
                "difference": difference(network, windows, forwards[name, precision]),
            }
        )
    return measured + rows


def table(found: Mapping[str, Any]) -> str:
    """What `bench` found, as readable text."""
    machine, network, limits = found["machine"], found["network"], found["limits"]
    rows = [row for row in found["engines"] if "median" in row]
    base = next((row["median"] for row in rows if (row["engine"], row["precision"]) == ("torch", "float32")), None)
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, {machine['memory_gib']} GiB, "
        f"load {machine['load'][0]} before and {machine['load'][1]} after",
        "",
        "limit                float32   bfloat16",
        *(
            f"{name:<16}{limits[name]['float32']:>12.0f}{limits[name]['bfloat16']:>11.0f}  GFLOP/s"
            for name in ("gemm", "convolution")
        ),
        f"{'write':<16}{limits['write']:>12.0f}  MiB/s, flushed",
        f"{'read':<16}{limits['read']:>12.0f}  MiB/s",
        "",
        f"{network['class']}, weights {network['weights'][:12]}, "
        f"windows {'x'.join(map(str, network['windows']))}, {network['gflop']:.1f} GFLOP",
        f"{'engine':<14}{'precision':<11}{'ms':>9}{'faster':>9}{'GFLOP/s':>9}{'of limit':>10}{'difference':>12}",
    ]
    for row in rows:
        faster = "" if base is None else f"{base / row['median']:.2f}x"
        lines.append(
            f"{row['engine']:<14}{row['precision']:<11}{1000 * row['median']:>9.1f}{faster:>9}{row['gflops']:>9.0f}"
            f"{row['share']:>10.0%}{row['difference']:>12.1e}"
        )
    left_out = [row for row in found["engines"] if "left_out" in row]
    lines += [f"{row['engine']:<14}{row['precision']:<11}{row['left_out']}" for row in left_out]
    image, stages = found["image"], found["stages"]
    total = sum(stages[stage] for stage in STAGES)
    lines += [
        "",
        f"{image['name']}, {'x'.join(map(str, image['shape']))}, from file to file: {total:.2f} s "
        f"(network: {stages['engine']}, {stages['precision']})",
        *(f"{stage:<14}{stages[stage]:>9.3f} s{stages[stage] / total:>7.0%}" for stage in STAGES),
    ]
    return "\n".join(lines) + "\n"


class _FoundError(Exception):
    """Carries the first windows out of an inferer that need not continue."""

    def __init__(self, windows: torch.Tensor) -> None:
        super().__init__()
        self.windows = windows


def _first_windows(inferer: SlidingWindow, image: torch.Tensor) -> torch.Tensor:
    def network(windows: torch.Tensor) -> torch.Tensor:
        raise _FoundError(windows)

    engine, inferer.engine = inferer.engine, None
    try:
        inferer(image, network)
    except _FoundError as found:
        return found.windows
    finally:
        inferer.engine = engine
    raise RuntimeError("the inferer asked for no window")


def _stages(predictor: CasePredictor, item: Mapping[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
    """Seconds of each stage of the only case, the shape of its image, the engine; and the first windows."""
    chain = (
        getattr(predictor.dataset, "transform", None) if predictor.preprocessing is None else predictor.preprocessing
    )
    seconds = dict.fromkeys(STAGES, 0.0)
    prepared = _timed(chain, dict(item), seconds, "preprocess")
    image = prepared["image"].as_tensor() if isinstance(prepared["image"], MetaTensor) else prepared["image"]
    inferer, network = predictor.inferer, predictor.network
    if not isinstance(inferer, SlidingWindow):
        raise TypeError(f"inferer must be a SlidingWindow, got {type(inferer).__name__}")
    windows = _first_windows(inferer, image[None])
    inferer(windows, network)  # makes the engine, warms it up
    start = time.perf_counter()
    prepared["pred"] = inferer(image[None], network)[0].float()
    seconds["network"] = time.perf_counter() - start
    result = _timed(predictor.postprocessing, prepared, seconds, "restore")
    engine = "torch" if inferer.engine is None else inferer.engine.used
    shape = list(result["pred"].shape[1:])
    precision = str(inferer.precision)
    rounded = {stage: round(value, 4) for stage, value in seconds.items()}
    return {**rounded, "engine": engine, "precision": precision, "shape": shape}, windows


def _timed(chain: Any, item: dict[str, Any], seconds: dict[str, float], stage: str) -> dict[str, Any]:
    """An item after a chain; the time of what loads and what saves is that of reading and writing."""
    steps = chain.flatten().transforms if isinstance(chain, Compose) else [chain]
    for step in steps:
        name = type(step).__name__
        own = "read" if name.startswith("Load") else "write" if name.startswith("Save") else stage
        start = time.perf_counter()
        item = step(item) if step is not None else item
        seconds[own] += time.perf_counter() - start
    return item


def _rate(call: Callable[[], object], flop: float) -> float:
    """The highest GFLOP/s of a second's calls: on a busy machine a few of them meet nobody."""
    call()
    times: list[float] = []
    while not times or sum(times) < _SECONDS:
        times.append(_seconds(call))
    return round(flop / min(times) / 1e9, 1)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _file_rates(file: Path) -> dict[str, float]:
    block = os.urandom(2**20)

    def write() -> None:
        with open(file, "wb") as stream:
            for _ in range(_FILE_MIB):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())

    def read() -> None:
        with open(file, "rb", buffering=0) as stream:
            while stream.read(2**20):
                pass

    written = _seconds(write)
    if hasattr(os, "posix_fadvise"):
        with open(file, "rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    rates = {"write": round(_FILE_MIB / written, 1), "read": round(_FILE_MIB / _seconds(read), 1)}
    file.unlink()
    return rates
