"""From a list of scans to masks on disk, one case at a time or several in parallel."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from monai.data import MetaTensor
from torch import nn

from medseg3d.data.ahead import map_ahead
from medseg3d.data.manifests import Manifest
from medseg3d.data.pseudonyms import hidden
from medseg3d.data.records import standing
from medseg3d.errors import UsageError, UserError, causes, find_user_error, internal_error
from medseg3d.files.atomic import remove_leftovers
from medseg3d.inference.bounds import CaseBounds
from medseg3d.inference.records import case_name, case_record, provenance, record_aside, record_of, write_record
from medseg3d.knobs import as_flag
from medseg3d.precision import Precision, resolved

logger = logging.getLogger("medseg3d")

_NO_MEMORY = ("allocate memory", "bad_alloc")  # as torch and ONNX Runtime, and as OpenVINO have it
_MOST_WORKERS = 8  # beyond, Python's own share of a case leaves the cores idle


@dataclass(frozen=True)
class Failure:
    """A case that could not be segmented; as text one line that names the file and the reason."""

    item: Mapping[str, Any]
    cause: Exception

    @property
    def error(self) -> UserError:
        """The error; `INTERNAL` with the innermost cause if it was unexpected."""
        image = str(self.item.get("image") or case_name(self.item))
        error = find_user_error(self.cause) or internal_error(self.cause, image)
        return hidden(error, {image: self.item["pseudonym"]}) if "pseudonym" in self.item else error

    def __str__(self) -> str:
        return str(self.error)


@dataclass
class PredictionResult:
    """The outcome of all cases.

    Attributes:
        done: records of the cases segmented, as in the JSON file next to each mask.
        skipped: items that needed no work or whose files are not ours to replace, each with a `reason`.
        again: items that were segmented although they had a mask, each with a `reason`.
        failed: the other cases.
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

    def check(self) -> PredictionResult:
        """The result itself, to end a run that has to fail if a case failed.

        Raises:
            UserError: CASES_FAILED, naming the first; with a single case, its own error.
        """
        if not self.failed:
            return self
        total = len(self.done) + len(self.skipped) + len(self.failed)
        first = self.failed[0].error
        if total == 1:
            first.said = True
            raise first from self.failed[0].cause
        failed, found = f"{len(self.failed)} of {total} cases", f"failed, the first with {first.code} {first.subject}"
        remedy = "see the log for each of them, fix those files and rerun the same command"
        raise UserError("CASES_FAILED", failed, found, "a mask for each", remedy) from self.failed[0].cause

    def __str__(self) -> str:
        return f"{len(self.done)} segmented, {len(self.skipped)} skipped, {len(self.failed)} failed"


Outcome = dict[str, Any] | Failure
"""What became of a case: its record, or why there is none."""


class CaseRunner(Protocol):
    """Runs the cases: a `CasePredictor` itself, or processes with one each."""

    def made_with(self) -> dict[str, Any]:
        """The parts of a record that say what a mask is made with, as `provenance` gives them."""
        ...

    def outcomes(self, items: Sequence[Mapping[str, Any]]) -> Generator[tuple[int, Outcome], None, None]:
        """Position and outcome of every item, as they are done; closing it lets no other begin."""
        ...


class CasePredictor:
    """Segments cases, optionally several in parallel; an error in one does not stop the others.

    Each case is loaded, preprocessed, inferred and postprocessed, which writes its mask. Last, a record is written next
    to the mask (`ct_seg.json`): its existence marks the case as done, its content says what was done. It names
    files without their folders and contains nothing of the source's header except the geometry.

    With several `workers`, that many cases are processed at the same time, each in its own thread from file to file;
    the report and the log keep the order of the items. On a CPU the workers share torch's threads, so that none waits
    for the others after every layer, and reading and writing overlap with computing; on other devices one network
    runs at a time. After an interrupt, running cases finish and no other starts.

    Args:
        dataset: items `{"image", "mask_file", "case"}`, and `"prob_file"` for probabilities, preferably from
            `medseg3d.data.outputs.input_items`; or a MONAI data set of such items, whose transform then is the
            preprocessing. Items with a `"reason"` are skipped.
        network: logits (B, C, x, y, z) from images (B, 1, x, y, z), or (B, C, h, w) from images (B, 3, h, w); a
            Module is moved to `device`.
        inferer: called as `inferer(batch, network)`, for instance `SlidingWindow`.
        postprocessing: takes the item with `pred`, logits (C, x, y, z) on the grid of the preprocessed `image`.
        preprocessing: from an item to one whose `image` is a MetaTensor (1, x, y, z); None for the data set's own.
        device: where the network runs.
        precision: around the inferer, as `medseg3d.precision.choose_precision` takes or returns it; not needed if
            the inferer has one.
        settings: further values to record, such as options.
        workers: cases processed at the same time; None for as many as torch has threads, at most 8. Memory grows
            with them: use 1 for volumes, whose windows keep every core busy anyway.
        class_names: of the labels 1, 2, ..., for records, and for the DICOM segmentations of items with a
            `dicom_seg_file`.
        manifest: the expected checksums of the images; None for no check.
        overwrite: whether to segment images again that have a valid mask.

    Raises:
        UserError: BAD_VALUE for `precision` or `workers`; from `run`, NO_SPACE before the first case.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> import numpy as np
        >>> from monai.inferers import SimpleInferer
        >>> from monai.transforms import Compose
        >>> from medseg3d.data.outputs import input_items
        >>> from medseg3d.transforms import LoadVolumed, InvertToOriginald, SaveMaskd
        >>> folder = Path(tempfile.mkdtemp())
        >>> nib.save(nib.Nifti1Image(np.full((4, 5, 6), 40, np.int16), np.eye(4)), folder / "ct.nii.gz")
        >>> predictor = CasePredictor(
        ...     dataset=input_items(folder, folder / "masks"),
        ...     network=lambda image: torch.cat([30 - image, image - 30], 1),
        ...     inferer=SimpleInferer(),
        ...     preprocessing=LoadVolumed("image"),
        ...     postprocessing=Compose([InvertToOriginald("pred"), SaveMaskd("pred")]),
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
        workers: int | None = 1,
        class_names: Sequence[str] = (),
        manifest: Manifest | None = None,
        overwrite: bool | str = False,
    ) -> None:
        if workers is None:
            workers = min(torch.get_num_threads(), _MOST_WORKERS)
        if not isinstance(workers, int) or workers < 1:
            raise UsageError(
                "BAD_VALUE",
                "--workers",
                repr(workers),
                "a whole number, 1 or more, or none",
                "leave it out to choose it automatically",
            )
        preprocessing = preprocessing or getattr(dataset, "transform", None)
        if preprocessing is None:
            raise ValueError("preprocessing must be given with a plain list of items, found None")
        self.dataset = dataset
        self.network = network
        self.inferer = inferer
        self.preprocessing = preprocessing
        self.postprocessing = postprocessing
        self.device = torch.device(device)
        self.precision = resolved(precision, self.device)
        self.settings = dict(settings or {})
        self.workers = workers
        self.class_names = class_names
        self.manifest = manifest
        self.overwrite = as_flag(overwrite, "overwrite")
        # a GPU only needs memory for the layers of one case, whatever the number of workers
        self._turn = contextlib.nullcontext() if self.device.type == "cpu" else threading.Lock()
        self.bounds = CaseBounds(preprocessing, postprocessing, network, inferer, self.device, workers)
        if isinstance(network, nn.Module):
            network.to(self.device).eval()

    def run(
        self, runner: CaseRunner | None = None, progress: Callable[[int, int, dict], None] | None = None
    ) -> PredictionResult:
        """Segment every case and return the outcomes.

        Errors of single cases are collected and logged, see `PredictionResult.check`; only an interrupt ends the run.

        Args:
            runner: runs the cases; None for this predictor, in this process.
            progress: called with (cases done, cases in all, item) after each case.
        """
        runner = runner or self
        items = getattr(self.dataset, "data", self.dataset)
        report = PredictionResult()
        clear_leftovers(items)
        todo = self._todo(items, report, runner.made_with())
        self.bounds.check_batch(todo)
        waiting: dict[int, Outcome] = {}  # for those before them
        said = 0
        with contextlib.closing(runner.outcomes(todo)) as outcomes:
            for done, (position, outcome) in enumerate(outcomes, start=1):
                waiting[position] = outcome
                while said in waiting:
                    _say(waiting.pop(said), report)
                    said += 1
                if progress is not None:
                    progress(done, len(todo), todo[position])
        made = {record["case"] for record in report.done}
        report.again = [item for item in report.again if case_name(item) in made]
        logger.info("%s", report)
        return report

    def _todo(self, items: Sequence[Any], report: PredictionResult, made_with: Mapping[str, Any]) -> list[Any]:
        """The cases to segment; the others go to the report, and the log says why."""
        todo = []
        for item in items:
            if "reason" in item:
                report.skipped.append(item)
                continue
            if self.overwrite or "mask_file" not in item:
                todo.append(item)
                continue
            found = standing(item, made_with)
            if found.warning:
                logger.warning("%s: kept: %s", case_name(item), found.reason)
            if found.kept and self._is_as_listed(item):
                report.skipped.append({**item, "reason": found.reason})
                continue
            todo.append(item)
            if found.reason:
                report.again.append({**item, "reason": found.reason})
        return todo

    def _is_as_listed(self, item: Mapping[str, Any]) -> bool:
        """Whether the manifest, if there is one, lets the image pass: one that it does not is not a case to keep."""
        try:
            if self.manifest is not None:
                self.manifest.check(item["image"])
        except UserError:
            return False
        return True

    def outcomes(self, items: Sequence[Mapping[str, Any]]) -> Generator[tuple[int, Outcome], None, None]:
        """Position and outcome of every item, in order."""
        workers = min(self.workers, len(items))
        with contextlib.closing(map_ahead(self.attempt, items, workers if workers > 1 else 0)) as outcomes:
            yield from enumerate(outcomes)

    def attempt(self, item: Mapping[str, Any]) -> Outcome:
        """Segment one case: its record, or its failure."""
        try:
            return self._segment(item)
        except Exception as error:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return Failure(item, _out_of_memory(error, item) or error)

    def _segment(self, item: Mapping[str, Any]) -> dict[str, Any]:
        clock = _Clock()
        if self.manifest is not None:
            self.manifest.check(item["image"])
        self.bounds.check_case(item)
        with torch.inference_mode():
            prepared = dict(self.preprocessing(dict(item)))
            if "dicom_seg_file" in item:
                from medseg3d.dicom.segmentation import check_referable, write_segmentation  # of the extra dicom

                check_referable(item["image"], prepared["series"])
            clock.lap("preprocessing")
            prepared["pred"] = self._logits(prepared["image"])
            clock.lap("inference")
            with record_aside(item):  # from here on the case is not done
                result = self.postprocessing(prepared)
                if "dicom_seg_file" in item:
                    result["pred"].meta["segmentation_sha256"] = write_segmentation(
                        item["dicom_seg_file"],
                        result["pred"].cpu().numpy()[0],
                        result["series"],
                        self.class_names,
                        self.made_with()["model"],
                    )
            clock.lap("postprocessing")
        engine = getattr(self.inferer, "engine", None)
        made_by = {"device": str(self.device), "engine": "torch" if engine is None else engine.used}
        content = case_record(item, result, self.made_with(), made_by, clock.seconds, self.class_names)
        if (record := record_of(item)) is not None:
            write_record(record, content)
        return content

    def _logits(self, image: torch.Tensor) -> torch.Tensor:
        if isinstance(image, MetaTensor):
            image = image.as_tensor()
        with self._turn, self.precision.autocast(self.device.type):
            return self.inferer(image[None].to(self.device), self.network)[0].float()

    def made_with(self) -> dict[str, Any]:
        """The parts of a record that say what a mask is made with."""
        return provenance(self.network, self.inferer, self.preprocessing, self.precision, self.device, self.settings)


def clear_leftovers(items: Iterable[Mapping[str, Any]]) -> None:
    """Remove partial files of killed processes next to the masks and maps of some cases."""
    written = ("mask_file", "prob_file")
    for folder in {Path(item[key]).parent for item in items for key in written if key in item}:
        remove_leftovers(folder)


def _say(outcome: Outcome, report: PredictionResult) -> None:
    """Log an outcome and enter it in the report."""
    if isinstance(outcome, Failure):
        logger.error("%s", outcome)
        if "pseudonym" not in outcome.item:
            logger.debug("the same, in full", exc_info=outcome.cause)
        report.failed.append(outcome)
        return
    for warning in outcome["warnings"]:
        logger.warning("%s: %s", outcome["case"], warning)
    report.done.append(outcome)


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 3)
        self._last = now


def _out_of_memory(error: BaseException, item: Mapping[str, Any]) -> UserError | None:
    for cause in causes(error):
        if isinstance(cause, (MemoryError, torch.OutOfMemoryError)) or any(each in str(cause) for each in _NO_MEMORY):
            found = "more voxels than fit into memory"
            remedy = "use a coarser --spacing, a smaller --roi_size, --workers 1, or --device cpu"
            return UserError("OUT_OF_MEMORY", str(item.get("image")), found, "less memory per case", remedy)
    return None
