"""A mask as a DICOM Segmentation (PS3.3, A.51) that refers to the images it was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DA, TM

from medseg3d import __version__
from medseg3d.dicom.series import LoadedSeries
from medseg3d.errors import UserError
from medseg3d.files.atomic import atomic_path
from medseg3d.files.signature import SIGNATURE
from medseg3d.files.stream import file_sha256

CODES = {
    "pancreas": (codes.SCT.AnatomicalStructure, Code("15776009", "SCT", "Pancreas")),
    "tumour": (codes.SCT.MorphologicallyAbnormalStructure, Code("126859007", "SCT", "Neoplasm of pancreas")),
}
"""Class of a bundle -> category and type of what is segmented, in SNOMED CT; other classes have a code of our own."""

_OWN_SCHEME = "99MEDSEG3D"  # PS3.3, 8.2: the schemes of single makers begin with 99
_SERIES_NUMBER = 9000  # far from the scanner's own
_REPEATED: dict[str, Callable[[str | None], object]] = {
    **{"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM},
    "PatientSex": lambda value: value and hd.PatientSexValues(value),
}
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
_EMPTY_WHERE_ABSENT = ("PatientName", "PatientID", "StudyID", "AccessionNumber", *_REPEATED)  # PS3.3: type 2
_BY_ITS_FILE = {"SOPInstanceUID": "MediaStorageSOPInstanceUID", "SOPClassUID": "MediaStorageSOPClassUID"}


def check_referable(source: str | Path, series: LoadedSeries) -> None:
    """Refuse images that a segmentation cannot refer to, and a patient or study that it could not repeat.

    Raises:
        UserError: MISSING_TAG, without the value.
    """
    for tags in series.headers:
        for keyword in _NEEDED:
            if not (tags.get(keyword) or tags.file_meta.get(_BY_ITS_FILE.get(keyword, ""))):
                raise _missing(source, keyword)
        for keyword, kind in _REPEATED.items():
            try:
                kind(tags.get(keyword) or None)
            except ValueError:
                raise _missing(source, keyword) from None  # the error quotes the value


def write_segmentation(
    path: str | Path,
    mask: np.ndarray,
    series: LoadedSeries,
    class_names: Sequence[str],
    model: Mapping[str, str | None],
) -> str:
    """The sha256 of the segmentation just written, opened again and compared before it gets its name.

    Its UIDs follow from the images, the mask and the weights: made again, the same segmentation has the same ones.

    Args:
        path: the file to write; an existing one is replaced once the new one is whole.
        mask: (X, Y, Z) uint8 on the grid of the series, label i + 1 is `class_names[i]`.
        series: what it was made from, as `read_series` gives it; `check_referable` has to let it pass.
        class_names: of the labels; each is a segment, also one that is nowhere.
        model: `class` and `sha256` of the network, the algorithm that the segments name.

    Raises:
        ValueError: a label without a name.
        UserError: DICOM_SEG, for headers that highdicom refuses; NO_SPACE, NOT_WRITABLE.
    """
    if mask.max() > len(class_names):
        raise ValueError(f"mask must hold labels up to {len(class_names)}, found {mask.max()}")
    # by file and frame, the order in which a segmentation expects its source
    order = sorted(range(len(series.planes)), key=lambda place: series.planes[place])
    frames = np.ascontiguousarray(mask.transpose(2, 1, 0)[order])
    identity = [series.sha256, str(model.get("sha256")), __version__, hashlib.sha256(frames.tobytes()).hexdigest()]
    try:
        segmentation = hd.seg.Segmentation(
            source_images=[_referable(tags, series) for tags in series.headers],
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=_segments(class_names, model),
            series_instance_uid=generate_uid(entropy_srcs=["series", *identity]),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=generate_uid(entropy_srcs=["instance", *identity]),
            instance_number=1,
            manufacturer="medseg3d",
            manufacturer_model_name=str(model.get("class")),
            software_versions=__version__,
            device_serial_number=str(model.get("sha256") or "unknown"),
            series_description=SIGNATURE,
            content_label="SEGMENTATION",
            content_qualification=hd.ContentQualificationValues.RESEARCH,
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
    except (AttributeError, TypeError, ValueError) as error:  # which quote the values of tags
        found = f"images that highdicom cannot make a segmentation from ({type(error).__name__})"
        wanted = "a series as a scanner exports it"
        raise UserError("DICOM_SEG", path, found, wanted, "leave out --format dicom-seg") from None
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)
        if not np.array_equal(read_segmentation(temporary, series), mask):
            raise OSError(f"{path}: the segmentation read back is not the one written")
        digest = file_sha256(temporary)
    return digest


def read_segmentation(path: str | Path, series: LoadedSeries) -> np.ndarray:
    """Labels (X, Y, Z) uint8 of a segmentation on the grid of the series it refers to; 0 where no segment is."""
    segmentation = hd.seg.segread(path)
    sources = [str(_referable(tags, series).SOPInstanceUID) for tags in series.headers]
    how: dict[str, Any] = {"combine_segments": True, "assert_missing_frames_are_empty": True}
    if len(sources) == 1:
        frames = segmentation.get_pixels_by_source_frame(sources[0], [frame + 1 for _, frame in series.planes], **how)
    else:
        frames = segmentation.get_pixels_by_source_instance([sources[header] for header, _ in series.planes], **how)
    return frames.transpose(2, 1, 0).astype(np.uint8)


def _missing(source: str | Path, keyword: str) -> UserError:
    wanted = "the UIDs, patient and study of the scanner"
    remedy = "leave out --format dicom-seg, or use the series as it was exported"
    return UserError("MISSING_TAG", source, f"no usable {keyword} for a segmentation", wanted, remedy)


def _segments(class_names: Sequence[str], model: Mapping[str, str | None]) -> list[hd.seg.SegmentDescription]:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=f"medseg3d {model.get('class')}",
        family=codes.DCM.ArtificialIntelligence,
        version=__version__,
        parameters={"weights_sha256": str(model.get("sha256"))},
    )
    described = []
    for number, name in enumerate(class_names, start=1):
        own = (codes.SCT.Tissue, Code(name.upper()[:16], _OWN_SCHEME, name))
        category, kind = CODES.get(name, own)
        described.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=category,
                segmented_property_type=kind,
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
            )
        )
    return described


def _referable(tags: Dataset, series: LoadedSeries) -> Dataset:
    """The header, completed where an anonymiser has emptied it or a CT may leave empty what a segmentation may not.

    Its kind and UID may be left in the file's own header alone; a thickness is the distance of the slices.
    """
    for keyword, of_file in _BY_ITS_FILE.items():
        if not tags.get(keyword):
            setattr(tags, keyword, tags.file_meta.get(of_file))
    for keyword in _EMPTY_WHERE_ABSENT:
        if keyword not in tags:
            setattr(tags, keyword, "")
    groups = (*tags.get("SharedFunctionalGroupsSequence", ()), *tags.get("PerFrameFunctionalGroupsSequence", ()))
    for place in (tags, *(item for group in groups for item in group.get("PixelMeasuresSequence", ()))):
        if not place.get("SliceThickness"):
            place.SliceThickness = series.slice_mm
    return tags
