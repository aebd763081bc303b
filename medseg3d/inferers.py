"""From a list of scans to masks on disk: weights, sliding windows, and one case after the other."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import platform
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import monai
import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInfererAdapt
from monai.transforms import Compose
from torch import nn

from medseg3d import __version__
from medseg3d.data.ahead import map_ahead
from medseg3d.data.atomic import atomic_write, remove_leftovers
from medseg3d.data.manifests import Manifest
from medseg3d.data.outputs import record_file
from medseg3d.data.records import standing
from medseg3d.data.tensors import read_tensors_and_sum, state_of_network
from medseg3d.faults import Fault, UsageFault, find_fault, internal_fault
from medseg3d.networks.memory_format import channels_last
from medseg3d.precision import Precision, precision_on

logger = logging.getLogger("medseg3d")

INTENDED_USE = "research only, not for clinical use"

_MOST_WORKERS = 8  # beyond, Python's own share of a case leaves the cores idle


def load_weights(network: nn.Module, path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The network itself, on `device` and in channels-last memory, with every weight of a file and no other.

    Args:
        network: the network the file was trained with.
        path: a state dict as `torch.save` wrote it, also in the dictionaries and behind the prefixes that
            `medseg3d.data.tensors.state_of_network` knows. If `path.sha256` lies beside it, it has to agree.
        device: where the network goes.

    Returns:
        `network`, with the file's SHA-256 in its attribute `weights_sha256`.

    Raises:
        Fault: MISSING_WEIGHTS, CHECKSUM, NON_FINITE, or CHECKPOINT: not a file of tensors, or of another network.
    """
    path = Path(path)
    content, digest = read_tensors_and_sum(path)
    state = state_of_network(content, network.state_dict())
    _check_fit(network, state, path)
    network.load_state_dict(state)
    network.weights_sha256 = digest  # type: ignore[assignment]
    return channels_last(network.to(device))


class SlidingWindow(SlidingWindowInfererAdapt):
    """MONAI's sliding windows, run in channels-last memory and, if asked for, in reduced precision.

    A volume smaller than a window is padded with `cval` on both sides and the logits are cropped back, as MONAI does:
    after ScaleIntensityRanged a `cval` of 0 is what lies below the window of intensities, air. On a GPU the logits are
    stitched there, and on the CPU when it lacks the memory.

    Args:
        roi_size: the window, voxels along each axis.
        overlap: share of the window that neighbours have in common, 0 to 1.
        sw_batch_size: windows per forward pass.
        mode: how windows are blended, `gaussian` or `constant`.
        precision: of the network, as `medseg3d.precision.choose_precision` takes or gives it; logits are stitched in
            float32.
        channels_last: whether windows are handed to the network in channels-last memory; the network stays as it is.
        device: where the logits are stitched; None as above.
        padding_mode: how small volumes are padded.
        cval: the value they are padded with.
        progress: whether to show a bar over the windows.
        mirror_axes: test-time augmentation: the logits are the mean over the windows mirrored along every combination
            of these spatial axes (0 the first), mirrored back; 2 ** len(mirror_axes) times the work, in one batch, as
            nnU-Net has it (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z).

    Raises:
        Fault: BAD_VALUE for axes that are not different ones of 0, 1 and 2; when called, for an axis that the windows
            have not.

    Example:
        >>> volume = torch.rand(1, 1, 10, 40, 24)
        >>> SlidingWindow((16, 16, 16))(volume, lambda window: 2 * window).sub(2 * volume).abs().max() < 1e-5
        tensor(True)
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        overlap: Sequence[float] | float = 0.5,
        sw_batch_size: int = 1,
        mode: str = "gaussian",
        precision: Precision | str = "float32",
        channels_last: bool = True,
        device: str | torch.device | None = None,
        padding_mode: str = "constant",
        cval: float = 0.0,
        progress: bool = False,
        mirror_axes: Sequence[int] = (),
    ) -> None:
        super().__init__(
            roi_size=roi_size,
            sw_batch_size=sw_batch_size,
            overlap=overlap,
            mode=mode,
            padding_mode=padding_mode,
            cval=cval,
            device=device,
            progress=progress,
        )
        self.precision = precision
        self.channels_last = channels_last
        self.mirror_axes = list(mirror_axes)
        if len(set(self.mirror_axes)) < len(self.mirror_axes) or not {*self.mirror_axes} <= {0, 1, 2}:
            raise UsageFault(
                "BAD_VALUE", "--mirror_axes", repr(mirror_axes), "different spatial axes out of 0, 1 and 2"
            )

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Logits (B, C, *spatial) float32 of a batch (B, channels, *spatial)."""

        def forward(window: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            window = _channels_last(window) if self.channels_last else window
            with _resolved(self.precision, window.device).autocast(window.device.type):
                output = network(window, *args, **kwargs)
            return output.float() if isinstance(output, torch.Tensor) else output

        seen = mirrored(forward, self.mirror_axes) if self.mirror_axes else forward
        return super().__call__(inputs, seen, *args, **kwargs)


def mirrored(network: Callable[..., torch.Tensor], axes: Sequence[int]) -> Callable[..., torch.Tensor]:
    """A network whose logits are the mean over all mirror images of what it sees, each mirrored back.

    Args:
        network: logits (B, C, *spatial) of a batch (B, channels, *spatial).
        axes: spatial axes; the images are mirrored along every combination of them, none of them included.

    Raises:
        Fault: BAD_VALUE when called, for an axis that the batch has not.

    Example:
        >>> network = mirrored(lambda batch: batch.cumsum(-1), axes=[1])
        >>> network(torch.ones(1, 1, 1, 3)).flatten().tolist()
        [2.0, 2.0, 2.0]
    """
    combinations = [dims for number in range(len(axes) + 1) for dims in itertools.combinations(axes, number)]

    def mean(batch: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if max(axes) >= batch.ndim - 2:
            raise UsageFault("BAD_VALUE", "--mirror_axes", f"{list(axes)}", f"axes of windows {tuple(batch.shape[2:])}")
        flips = [[axis + 2 for axis in combination] for combination in combinations]
        logits = network(torch.cat([batch.flip(dims) for dims in flips]), *args, **kwargs).chunk(len(flips))
        return torch.stack([part.flip(dims) for part, dims in zip(logits, flips, strict=True)]).mean(0)

    return mean


class SliceWindows(SlidingWindow):
    """2-D sliding windows over every slice of a volume, each slice with its neighbours as channels.

    The channels of slice z are the slices z - n to z + n of the volume; beyond its ends the border slice is repeated,
    so that the first and the last slice are segmented too. A batch of pictures (B, channels, H, W) goes through
    `SlidingWindow` as it is.

    Args:
        roi_size: the window, pixels along the two in-plane axes.
        neighbours: n, the slices on each side.
        copies: how often these channels are given: 3 with no neighbours for a network of RGB pictures, which takes a
            slice for a grey one.
        slices_per_batch: slices whose logits are stitched at a time; bounds the memory, not the result.
        kwargs: as in `SlidingWindow`.

    Example:
        A "network" that returns its middle channel gives the volume back.

        >>> volume = torch.rand(1, 1, 20, 12, 5)
        >>> inferer = SliceWindows((16, 16), neighbours=1, slices_per_batch=2)
        >>> (inferer(volume, lambda window: window[:, 1:2]) - volume).abs().max() < 1e-5
        tensor(True)
    """

    def __init__(
        self, roi_size: Sequence[int], neighbours: int = 1, slices_per_batch: int = 8, copies: int = 1, **kwargs: Any
    ) -> None:
        if len(roi_size) != 2:
            raise ValueError(f"roi_size must have 2 axes, got {list(roi_size)}")
        if neighbours < 0 or slices_per_batch < 1:
            raise ValueError(f"neighbours must be >= 0 and slices_per_batch >= 1, got {neighbours}, {slices_per_batch}")
        if copies < 1:
            raise ValueError(f"copies must be >= 1, got {copies}: are there fewer in_channels than 2 * neighbours + 1?")
        super().__init__(roi_size=roi_size, **kwargs)
        self.neighbours = neighbours
        self.copies = copies
        self.slices_per_batch = slices_per_batch

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Logits (1, C, X, Y, Z) of a volume (1, 1, X, Y, Z), or (B, C, H, W) of pictures (B, channels, H, W)."""
        if inputs.ndim == 4:
            return super().__call__(inputs, network, *args, **kwargs)
        if inputs.ndim != 5 or inputs.shape[:2] != (1, 1):
            raise ValueError(f"inputs must be (1, 1, X, Y, Z) or (B, channels, H, W), found {tuple(inputs.shape)}")
        slices = inputs[0, 0].permute(2, 0, 1)  # (Z, X, Y)
        depth = len(slices)
        offsets = torch.arange(-self.neighbours, self.neighbours + 1).repeat(self.copies)
        logits: torch.Tensor | None = None
        for start in range(0, depth, self.slices_per_batch):
            middle = torch.arange(start, min(start + self.slices_per_batch, depth))
            chosen = (middle[:, None] + offsets).clamp(0, depth - 1).to(slices.device)
            part = super().__call__(slices[chosen], network, *args, **kwargs)
            if logits is None:
                logits = part.new_empty((1, part.shape[1], *inputs.shape[2:]))
            logits[0, ..., start : start + len(middle)] = part.permute(1, 2, 3, 0)
        return logits


@dataclass(frozen=True)
class Failure:
    """A case that could not be segmented; as text one line that names the file and the reason."""

    item: Mapping[str, Any]
    error: Exception

    @property
    def fault(self) -> Fault:
        """What was wrong; `INTERNAL` with the innermost cause where nobody foresaw it."""
        return find_fault(self.error) or internal_fault(
            self.error, str(self.item.get("image") or _case_name(self.item))
        )

    def __str__(self) -> str:
        return str(self.fault)


@dataclass
class Report:
    """What became of the cases.

    Attributes:
        done: records of the cases segmented, as in the JSON file beside each mask.
        skipped: items that needed no work or are not ours to replace, each with a `reason`.
        again: items that were segmented although a mask of theirs stood, each with a `reason`.
        failed: the others.
    """

    done: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    again: list[dict[str, Any]] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 all done, 1 all failed, 3 some failed."""
        if not self.failed:
            return 0
        return 3 if self.done or self.skipped else 1

    def check(self) -> Report:
        """The report itself, for the end of a run that has to fail when a case did.

        Raises:
            Fault: CASES_FAILED, naming the first; or the only one's own fault.
        """
        if not self.failed:
            return self
        total = len(self.done) + len(self.skipped) + len(self.failed)
        if total == 1:
            raise self.failed[0].fault from self.failed[0].error
        raise Fault(
            "CASES_FAILED", f"{len(self.failed)} of {total} cases", f"first of all: {self.failed[0]}"
        ) from self.failed[0].error

    def __str__(self) -> str:
        return f"{len(self.done)} segmented, {len(self.skipped)} skipped, {len(self.failed)} failed"


class CasePredictor:
    """Segments cases, several at a time if asked to; what is wrong with one does not stop the others.

    Each case is loaded and preprocessed, inferred, and postprocessed, which writes its mask; last of all a record
    goes beside the mask (`ct_seg.json`): its existence says that the case is done, its content what was done. It names
    files without their folders and holds nothing of the source's header but the geometry.

    With several `workers`, as many cases are under way at once, each in a thread of its own from file to file; the
    report, `progress` and what is logged of a case keep the order of the items. On a CPU the workers part torch's
    threads among them, so that none waits for the others after every layer and reading and writing cost no time of
    their own; on other devices one network runs at a time. An interrupt lets the cases under way end, and no other
    begins.

    Args:
        dataset: items `{"image", "mask_file", "case"}`, and `"prob_file"` where probabilities are wanted, best from
            `medseg3d.data.outputs.input_items`; or a MONAI data set of such items, whose transform then is the
            preprocessing.
        network: logits (B, C, x, y, z) from images (B, 1, x, y, z), or (B, C, h, w) from pictures (B, 3, h, w); a
            Module is moved to `device`.
        inferer: called as `inferer(batch, network)`, for instance `SlidingWindow`.
        postprocessing: takes the item with `pred`, logits (C, x, y, z) on the grid of the preprocessed `image`.
        preprocessing: from an item to one whose `image` is a MetaTensor (1, x, y, z); None for the data set's own.
        device: where the network runs.
        precision: around the inferer, as `medseg3d.precision.choose_precision` takes or gives it; needless when the
            inferer has one.
        settings: further numbers worth keeping in the record, such as knobs.
        progress: called with the number of the case from 1, the total and the item before each case, by several
            workers up to twice their number ahead.
        workers: cases under way at once; None for as many as torch has threads, at most 8. The memory needed grows
            with them: 1 for volumes, whose windows keep every core busy anyway.
        class_names: of the labels 1, 2, ..., for DICOM segmentations, which items with a `dicom_seg_file` get.
        manifest: the sums that the images have to have; None to take them as they are.

    Raises:
        Fault: BAD_VALUE for `precision` or `workers`.

    Example:
        >>> import tempfile
        >>> from monai.inferers import SimpleInferer
        >>> from monai.transforms import Compose
        >>> from medseg3d.data.outputs import input_items
        >>> from medseg3d.transforms import LoadNiftid, RestoreLabelsd, SaveMaskd
        >>> folder = Path(tempfile.mkdtemp())
        >>> nib.save(nib.Nifti1Image(np.full((4, 5, 6), 40, np.int16), np.eye(4)), folder / "ct.nii.gz")
        >>> predictor = CasePredictor(
        ...     dataset=input_items(folder, folder / "masks"),
        ...     network=lambda image: torch.cat([30 - image, image - 30], 1),
        ...     inferer=SimpleInferer(),
        ...     preprocessing=LoadNiftid("image"),
        ...     postprocessing=Compose([RestoreLabelsd("pred"), SaveMaskd("pred")]),
        ... )
        >>> print(predictor.run())
        1 segmented, 0 skipped, 0 failed
        >>> nib.load(folder / "masks/ct_seg.nii.gz").get_fdata().sum()
        np.float64(120.0)
    """

    def __init__(
        self,
        dataset: Sequence[Any],
        network: Callable[..., Any],
        inferer: Callable[..., Any],
        postprocessing: Callable[[dict], Any],
        preprocessing: Callable[[dict], Any] | None = None,
        device: str | torch.device = "cpu",
        precision: Precision | str = "float32",
        settings: Mapping[str, Any] | None = None,
        progress: Callable[[int, int, dict], None] | None = None,
        workers: int | None = 1,
        class_names: Sequence[str] = (),
        manifest: Manifest | None = None,
    ) -> None:
        if workers is None:
            workers = min(torch.get_num_threads(), _MOST_WORKERS)
        if not isinstance(workers, int) or workers < 1:
            raise UsageFault("BAD_VALUE", "--workers", repr(workers), "a number of cases, 1 or more, or none")
        self.dataset = dataset
        self.network = network
        self.inferer = inferer
        self.preprocessing = preprocessing
        self.postprocessing = postprocessing
        self.device = torch.device(device)
        self.precision = _resolved(precision, self.device)
        self.settings = dict(settings or {})
        self.progress = progress
        self.workers = workers
        self.class_names = class_names
        self.manifest = manifest
        # memory for one case's layers is all that a GPU is asked for, whatever the number of workers
        self._turn = contextlib.nullcontext() if self.device.type == "cpu" else threading.Lock()
        if preprocessing is None and not hasattr(dataset, "data"):
            raise ValueError("preprocessing must be given with a plain list of items, found None")
        if isinstance(network, nn.Module):
            network.to(self.device).eval()

    def run(self) -> Report:
        """Segment every case and say what became of each.

        Faults of single cases are collected and logged, see `Report.check`; only an interrupt ends the run.
        """
        items = getattr(self.dataset, "data", self.dataset)
        report = Report(skipped=list(getattr(items, "skipped", [])))
        written = ("mask_file", "prob_file")
        for folder in {Path(item[key]).parent for item in items for key in written if key in item}:
            remove_leftovers(folder)
        todo = self._todo(items, report)
        with contextlib.closing(self._outcomes(todo)) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome, Failure):
                    logger.error("%s", outcome)
                    logger.debug("the same, in full", exc_info=outcome.error)
                    report.failed.append(outcome)
                else:
                    for warning in outcome["warnings"]:
                        logger.warning("%s: %s", outcome["case"], warning)
                    report.done.append(outcome)
        logger.info("%s", report)
        return report

    def _todo(self, items: Sequence[Any], report: Report) -> list[tuple[int, Any]]:
        """Index and item of every case to segment; the others go to the report, and the log says why."""
        todo = []
        for index, item in enumerate(items):
            if getattr(items, "overwrite", True) or "mask_file" not in item:
                todo.append((index, item))
                continue
            found = standing(item, self._made_with())
            if found.warning:
                logger.warning("%s: kept: %s", _case_name(item), found.reason)
            if found.kept and self._is_as_listed(item):
                report.skipped.append({**item, "reason": found.reason})
                continue
            todo.append((index, item))
            if found.reason:
                report.again.append({**item, "reason": found.reason})
        return todo

    def _is_as_listed(self, item: Mapping[str, Any]) -> bool:
        """Whether the manifest, if there is one, lets the image pass: one that it does not is no case to keep."""
        try:
            if self.manifest is not None:
                self.manifest.check(item["image"])
        except Fault:
            return False
        return True

    def _outcomes(self, cases: Sequence[tuple[int, Any]]) -> Generator[dict[str, Any] | Failure, None, None]:
        """What became of each case, in the order of the items."""
        workers = min(self.workers, len(cases))
        return map_ahead(lambda case: self._attempt(*case), self._announced(cases), workers if workers > 1 else 0)

    def _announced(self, cases: Sequence[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        for number, (index, item) in enumerate(cases, start=1):
            if self.progress is not None:
                self.progress(number, len(cases), item)
            yield index, item

    def _attempt(self, index: int, item: Mapping[str, Any]) -> dict[str, Any] | Failure:
        try:
            return self._segment(index, item)
        except Exception as error:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return Failure(item, _out_of_memory(error, item) or error)

    def _segment(self, index: int, item: Mapping[str, Any]) -> dict[str, Any]:
        clock = _Clock()
        if self.manifest is not None:
            self.manifest.check(item["image"])
        with torch.inference_mode():
            prepared = dict(self.dataset[index] if self.preprocessing is None else self.preprocessing(dict(item)))
            if "dicom_seg_file" in item:
                from medseg3d.data.dicom_seg import check_referable, write_segmentation  # of the extra dicom

                check_referable(item["image"], prepared["series"])
            clock.lap("preprocessing")
            prepared["pred"] = self._logits(prepared["image"])
            clock.lap("inference")
            record = _record_of(item)
            if record is not None:
                record.unlink(missing_ok=True)  # from here on the case is not done
            result = self.postprocessing(prepared)
            if "dicom_seg_file" in item:
                result["pred"].meta["segmentation_sha256"] = write_segmentation(
                    item["dicom_seg_file"],
                    result["pred"].cpu().numpy()[0],
                    result["series"],
                    self.class_names,
                    self._made_with()["model"],
                )
            clock.lap("postprocessing")
        content = self._content(item, result, clock.seconds)
        if record is not None:
            with atomic_write(record, "w") as file:
                json.dump(content, file, indent=2, default=str)
                file.write("\n")
        return content

    def _logits(self, image: torch.Tensor) -> torch.Tensor:
        if isinstance(image, MetaTensor):
            image = image.as_tensor()
        with self._turn, self.precision.autocast(self.device.type):
            return self.inferer(image[None].to(self.device), self.network)[0].float()

    def _content(self, item: Mapping[str, Any], result: Mapping[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
        """What the record says; plain JSON types."""
        made_with = self._made_with()
        mask = result["pred"]
        meta = mask.meta if isinstance(mask, MetaTensor) else {}
        is_volume = mask.ndim == 4
        affine = np.asarray(mask.affine) if isinstance(mask, MetaTensor) else np.eye(4)
        source = Path(str(item["image"]))
        warnings = [line for line in str(meta.get("warnings", "")).splitlines() if line]
        labels, unit = (_volumes(mask, affine), "voxel") if is_volume else (_areas(mask), "pixel")
        geometry: dict[str, Any] = {"shape": list(mask.shape[1:])}
        if is_volume:
            geometry |= {
                "spacing_mm": np.linalg.norm(affine[:3, :3], axis=0).round(6).tolist(),
                "orientation": "".join(nib.aff2axcodes(affine)),
                "affine": affine.tolist(),
            }
        if not labels:
            warnings.append(f"EMPTY_MASK: no {unit} belongs to any class but the background")
        return {
            "case": _case_name(item),
            "intended_use": INTENDED_USE,
            "input": {
                "file": source.name,
                "bytes": source.stat().st_size if source.is_file() else None,
                "sha256": meta.get("sha256"),
                **(result["series"].record() if "series" in item else {}),
            },
            "mask": {
                "file": Path(item["mask_file"]).name if "mask_file" in item else None,
                "sha256": meta.get("mask_sha256"),
            },
            **({"cleaned": meta["cleaned"]} if "cleaned" in meta else {}),
            **_files_beside(item, result),
            **made_with,
            "inference": {**made_with["inference"], "device": str(self.device)},
            "geometry": geometry,
            "labels": labels,
            "warnings": warnings,
            "seconds": seconds,
            "versions": {
                "medseg3d": __version__,
                "monai": monai.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }

    def _made_with(self) -> dict[str, Any]:
        """The parts of a record that say what a mask is made with; another value is another mask."""
        chain = getattr(self.dataset, "transform", None) if self.preprocessing is None else self.preprocessing
        return {
            "model": {"class": type(self.network).__name__, "sha256": getattr(self.network, "weights_sha256", None)},
            "preprocessing": _steps(chain),
            "inference": {
                "class": type(self.inferer).__name__,
                # the inferer's is the inner one
                "precision": str(_resolved(getattr(self.inferer, "precision", self.precision), self.device)),
                **{
                    name: getattr(self.inferer, name) for name in ("roi_size", "overlap") if hasattr(self.inferer, name)
                },
            },
            "settings": self.settings,
        }


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 3)
        self._last = now


def _check_fit(network: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    shapes = [
        f"{name} {found[name]} for {wanted[name]}" for name in wanted if found.get(name, wanted[name]) != wanted[name]
    ]
    groups = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": shapes,
    }
    groups["of another kind"] = [
        f"{name} {getattr(state[name], 'dtype', type(state[name]).__name__)} for {value.dtype}"
        for name, value in network.state_dict().items()
        if name in found
        and not (isinstance(state[name], torch.Tensor) and state[name].is_floating_point() == value.is_floating_point())
    ]
    misfits = [f"{len(names)} {what} ({names[0]}, ...)" for what, names in groups.items() if names]
    if misfits:
        raise Fault(
            "CHECKPOINT",
            path,
            f"weights of another network: {', '.join(misfits)}",
            f"the {len(wanted)} tensors of this {type(network).__name__}",
            "is this the bundle and overlay it was trained with? are --init_filters, --nonlocal_blocks and "
            "--num_classes those of the training?"
            if found.keys() & wanted.keys()
            else "no name is one of this network's: save network.state_dict() of the network alone",
        )


def _channels_last(window: torch.Tensor) -> torch.Tensor:
    window = channels_last(window)
    if window.ndim < 4 or window.shape[1] != 1:
        return window
    # one channel looks the same in both formats, and torch would take it for the other one
    strides = list(window.stride())
    strides[1] = 1
    return window.as_strided(window.shape, strides)


def _resolved(precision: Precision | str, device: torch.device) -> Precision:
    return precision if isinstance(precision, Precision) else precision_on(precision, device)


def _steps(chain: Any) -> list[str]:
    """Names of the transforms of a chain, in order."""
    transforms = chain.flatten().transforms if isinstance(chain, Compose) else [chain]
    return [getattr(each, "__name__", type(each).__name__) for each in transforms if each is not None]


def _case_name(item: Mapping[str, Any]) -> str:
    return str(item.get("case") or item.get("image"))


def _files_beside(item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name and sum of every file the case has besides its mask."""
    files = {
        "probability": ("prob_file", "prob", "prob_sha256"),
        "overlay": ("overlay_file", "pred", "overlay_sha256"),
        "segmentation": ("dicom_seg_file", "pred", "segmentation_sha256"),
    }
    return {
        name: {"file": Path(item[file]).name, "sha256": getattr(result.get(key), "meta", {}).get(digest)}
        for name, (file, key, digest) in files.items()
        if file in item
    }


def _record_of(item: Mapping[str, Any]) -> Path | None:
    return record_file(item["mask_file"]) if "mask_file" in item else None


def _volumes(mask: torch.Tensor, affine: np.ndarray) -> dict[str, dict[str, float]]:
    """Voxels and millilitres of every label but 0."""
    # slice by slice: bincount widens its input to 64 bits
    counts = sum(np.bincount(part.ravel(order="K"), minlength=256) for part in mask.cpu().numpy().T)
    ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    return {
        str(label): {"voxels": int(count), "ml": round(float(count * ml), 3)}
        for label, count in enumerate(np.asarray(counts))
        if label > 0 and count > 0
    }


def _areas(mask: torch.Tensor) -> dict[str, dict[str, float]]:
    """Pixels of every label but 0, and their share of the picture in per cent."""
    counts = np.bincount(mask.cpu().numpy().ravel(), minlength=256)
    return {
        str(label): {"pixels": int(count), "percent": round(100 * float(count) / mask.numel(), 3)}
        for label, count in enumerate(counts)
        if label > 0 and count > 0
    }


def _out_of_memory(error: BaseException, item: Mapping[str, Any]) -> Fault | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(cause):
            return Fault(
                "OUT_OF_MEMORY",
                str(item.get("image")),
                "more voxels than the memory holds",
                "less at a time",
                "coarsen --spacing, shrink --roi_size, ask for --workers 1, or run on --device cpu",
            )
        cause = cause.__cause__ or cause.__context__
    return None
