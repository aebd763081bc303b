"""What a case will need, by its header alone: memory, and room on the disk for its results.

The bytes per voxel are those of what is alive at the same time in each step; docs/reliability.md compares them with
what a process takes (benchmarks/memory.py).
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.transforms import Compose, Orientationd, SpatialPadd
from torch import nn

from medseg3d.errors import UserError
from medseg3d.files.disk_space import check_space, in_words
from medseg3d.inference.windows import SliceWindows, SlidingWindow
from medseg3d.memory import available_memory
from medseg3d.networks.costs import forward_bytes
from medseg3d.pictures.decoding import read_size
from medseg3d.postprocessing import CleanMaskd
from medseg3d.precision import resolved
from medseg3d.transforms import FitSlicesd, LoadPictured, LoadVolumed, ResampleVolumed, ResizePictured
from medseg3d.volumes.reading import read_header

_SLABS = 64 << 20  # of the way back to the original grid
_KERNELS = 8  # of the memory of a forward pass, what kernels take besides to reorder it
_LIBRARIES = 160 << 20  # what they load at the first case
_MASK = 100  # voxels in a byte: masks of a pancreas compress to a 200th, of polyps to a 700th
_RECORD = 4096
_LOGITS = 2  # of a network that is not known

logger = logging.getLogger("medseg3d")


class Grid(NamedTuple):
    """What a header says of an image.

    Attributes:
        shape: voxels (X, Y, Z), or pixels (H, W).
        affine: (4, 4), voxel to RAS mm; the identity of an image.
        reading: bytes of memory per voxel while it is read.
        read: bytes of memory per voxel when it has been.
    """

    shape: Sequence[int]
    affine: np.ndarray
    reading: int
    read: int

    @property
    def size(self) -> int:
        """Voxels or pixels."""
        return math.prod(self.shape)


class CaseBounds:
    """The memory and the room that cases need, known before anything of them is read but the header.

    Arguments are those of `CasePredictor`. Of a preprocessing that does not begin with `LoadVolumed` or `LoadPictured`
    nothing is known, and nothing is refused.
    """

    def __init__(
        self,
        preprocessing: Any,
        postprocessing: Any,
        network: Callable[..., Any],
        inferer: Callable[..., Any],
        device: torch.device,
        workers: int,
    ) -> None:
        self.steps = _steps(preprocessing)
        self.cleans = any(isinstance(step, CleanMaskd) and step.is_asked for step in _steps(postprocessing))
        self.network = network
        self.inferer = inferer
        self.device = device
        self.workers = workers
        self.loader = next((step for step in self.steps if isinstance(step, (LoadVolumed, LoadPictured))), None)

    def check_case(self, item: Mapping[str, Any]) -> None:
        """Refuse a case for which there is not the memory, now.

        Raises:
            UserError: OUT_OF_MEMORY, and whatever its header is refused for.
        """
        if self.loader is None:
            return
        self._refuse(item, self.memory(item, self.workers), available_memory(), "memory")
        if self.device.type == "cuda":
            self._refuse(item, self._window[0], torch.cuda.mem_get_info(self.device)[0], "memory of the GPU")

    def check_batch(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Refuse a batch for whose results a disk has no room; to be asked before any case is.

        Raises:
            UserError: NO_SPACE.
        """
        _ = items and self._window  # now, because no network may run in another thread meanwhile
        needed: dict[Path, int] = {}
        for item in items if self.loader is not None else ():
            size, flat = self.size(item), isinstance(self.loader, LoadPictured)
            results = {
                "mask_file": size // _MASK + _RECORD,
                "prob_file": size if flat else 4 * size,
                "overlay_file": size * 3 // 2,
                "dicom_seg_file": size // 8,  # of each class
            }
            for key, room in results.items():
                if key in item:
                    folder = Path(item[key]).parent
                    needed[folder] = needed.get(folder, 0) + room
        check_space(needed, "choose other folders: --output, --probabilities, --save-overlays")

    def _refuse(self, item: Mapping[str, Any], needed: int, free: int, what: str) -> None:
        if needed > free:
            fewer = f", ask for --workers 1 instead of {self.workers}" if self.workers > 1 else ""
            found = f"about {in_words(needed)} of {what} to segment it"
            wanted = f"at most the {in_words(free)} available"
            remedy = f"use a smaller --roi_size or --sw_batch_size, a coarser --spacing{fewer}, or another --device"
            raise UserError("OUT_OF_MEMORY", str(item["image"]), found, wanted, remedy)

    def memory(self, item: Mapping[str, Any], cases: int = 1) -> int:
        """About the bytes of this machine's memory that cases like this take: of their steps that one which needs most.

        Raises:
            UserError: whatever its header is refused for.
        """
        grid = self.grid(item)
        window, logits = self._window
        window = window if self.device.type == "cpu" else 0
        original, prepared = grid.size, math.prod(self.prepared(grid))
        maps = 4 if "prob_file" in item else 0
        inference = prepared * 4 * (2 + logits) + window + window // _KERNELS  # image, logits and their weights
        slabs = min(_SLABS, 24 * max(original, prepared))
        restoring = prepared * 4 * (1 + logits) + original * (1 + maps) + slabs
        if isinstance(self.loader, LoadPictured):
            # an image comes back in one slab
            voxels = [grid.reading, 14 + maps, 26 if maps else 0, 23 if "overlay_file" in item else 0]
        else:
            turned = any(isinstance(step, Orientationd) for step in self.steps)
            # reading and turning; then writing and reading back, of a map too
            voxels = [grid.reading, 8 if turned else 0, 4 + maps, 15 if maps else 0, 32 if self.cleans else 0]
        resizing = grid.read * original + 4 * prepared + slabs
        return max(original * max(voxels), resizing, 12 * prepared, inference, restoring) * cases + _LIBRARIES

    def grid(self, item: Mapping[str, Any]) -> Grid:
        """What the header of a case's image says.

        Raises:
            UserError: what it is refused for.
        """
        if isinstance(self.loader, LoadPictured):
            return Grid(read_size(item["image"]), np.eye(4), 17, 12)
        if "series" in item:
            from medseg3d.dicom.series import series_grid  # of the extra dicom

            return Grid(*series_grid(item["image"], item["series"]), 4, 4)
        header = read_header(item["image"])
        stored = header.dtype.itemsize
        unscaled = (header.slope, header.intercept) == (1, 0)
        as_stored = isinstance(self.loader, LoadVolumed) and self.loader.keep_integers
        if unscaled and as_stored and header.dtype.kind == "i" and stored <= 2:
            return Grid(header.shape, header.affine, stored, stored)
        return Grid(header.shape, header.affine, stored + 4 if unscaled else stored + 8, 4)

    def size(self, item: Mapping[str, Any]) -> int:
        """Voxels or pixels of an image; of DICOM the bytes of its files, and nothing of what cannot be read."""
        image = Path(item["image"])
        if "series" in item:
            files = image.rglob("*") if image.is_dir() else [image]
            return sum(file.stat().st_size for file in files if file.is_file())
        try:
            return self.grid(item).size
        except UserError:
            return 0  # which segmenting it says

    def prepared(self, grid: Grid) -> tuple[int, ...]:
        """The spatial shape that the network meets."""
        shape = list(grid.shape)
        for step in self.steps:
            if isinstance(step, ResampleVolumed):
                shape = list(step.grid(shape, grid.affine)[0])
            elif isinstance(step, FitSlicesd):
                # rows lie along A, columns along the patient's left
                spacing, extent = _in_ras(shape, grid.affine)
                shape = [*step.fitted(np.array([extent[1], extent[0]])), round(extent[2] / spacing[2])]
            elif isinstance(step, ResizePictured):
                shape = list(step.fitted(shape))
            elif isinstance(step, SpatialPadd):
                wanted = step.padder.spatial_size
                shape = [max(size, least) for size, least in zip(shape, wanted, strict=True)]
        return tuple(int(size) for size in shape)

    @functools.cached_property
    def _window(self) -> tuple[int, int]:
        """Memory of a forward pass of one batch of windows, and the channels of its logits; 0 where it is not known."""
        inferer = self.inferer
        if self.loader is None or not (isinstance(self.network, nn.Module) and isinstance(inferer, SlidingWindow)):
            return 0, _LOGITS
        flat = isinstance(self.loader, LoadPictured)
        channels = (2 * inferer.neighbours + 1) * inferer.copies if isinstance(inferer, SliceWindows) else 1
        shape = (inferer.sw_batch_size * 2 ** len(inferer.mirror_axes), 3 if flat else channels, *inferer.roi_size)
        try:
            with resolved(inferer.precision, self.device).autocast(self.device.type):
                return forward_bytes(self.network, shape)
        except Exception as error:  # a network of the user's own may ask for values; what is wrong, its windows say
            logger.info("the memory needed for a window is unknown (%s)", " ".join(str(error).split())[:200])
            return 0, _LOGITS


def _in_ras(shape: Sequence[int], affine: np.ndarray) -> tuple[list[float], list[float]]:
    """Spacing and extent in mm along R, A, S of a volume whose axes may be in any order."""
    matrix = np.abs(affine[:3, :3])
    own = np.linalg.norm(matrix, axis=0)
    spacing, extent = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    for axis in range(3):
        towards = int(matrix[:, axis].argmax())
        spacing[towards], extent[towards] = float(own[axis]), float(own[axis]) * shape[axis]
    return spacing, extent


def _steps(chain: Any) -> list[Any]:
    return list(chain.flatten().transforms) if isinstance(chain, Compose) else [chain]
