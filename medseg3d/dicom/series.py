"""CT series in DICOM, found, checked and read into the same array and header that a NIfTI file gives.

pydicom parses and decodes; what it lets pass in silence (a missing slice, a tilted gantry, two series in one folder) is
refused here. Slices are ordered by their position along the normal of the image plane, never by InstanceNumber, and
come out as ITK lays them: X along the rows, Y along the columns, Z along the normal, values in HU.

Patient data is neither logged nor kept: of the tags, only those that are named here are read before the pixels.
"""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import struct
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, MediaStorageDirectoryStorage

from medseg3d.dicom.gdcm_process import GdcmProcess
from medseg3d.dicom.grid import Plane, even_grid, planes_of, sorted_planes
from medseg3d.dicom.pixels import check_inflated, check_size, hounsfield
from medseg3d.dicom.sources import SourceFile, damaged_member, dicom_files
from medseg3d.errors import UserError
from medseg3d.files.folders import harmless
from medseg3d.files.stream import truncated
from medseg3d.volumes.geometry import in_mm
from medseg3d.volumes.header import VolumeHeader
from medseg3d.volumes.nifti import geometry_of
from medseg3d.volumes.reading import with_scan_warnings

_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "FrameOfReferenceUID"),
    *("Modality", "ImageType", "SeriesNumber", "SeriesDescription", "ConvolutionKernel", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "NumberOfFrames"),
    *("SamplesPerPixel", "BitsAllocated", "PixelRepresentation", "PixelPaddingValue", "LossyImageCompression"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_CT = (CTImageStorage, EnhancedCTImageStorage)
_NOT_IMAGES = (MediaStorageDirectoryStorage,)
_LISTED = 12
_BRIGHT_PADDING = -200.0  # HU

# their warnings quote the values of tags, the names of patients among them
warnings.filterwarnings("ignore", module="pydicom|highdicom")
for _package in ("pydicom", "highdicom"):
    logging.getLogger(_package).setLevel(logging.CRITICAL)


class Header(NamedTuple):
    """What a file says of itself, without its pixels; the size of its pixels is that of the bounds."""

    file: SourceFile
    tags: Dataset

    @property
    def sop_class(self) -> str:
        """UID of its kind, where an anonymiser has emptied the tag that of the file's own header."""
        return str(self.tags.get("SOPClassUID") or self.tags.file_meta.get("MediaStorageSOPClassUID") or "")


@dataclass(frozen=True)
class Series:
    """The files of one series.

    Attributes:
        headers: of its files, in the order they were found.
        number: SeriesNumber, as text.
        uid: SeriesInstanceUID.
        is_ct: whether it is a CT, and no localizer of one.
    """

    headers: list[Header] = field(repr=False)
    number: str
    uid: str
    is_ct: bool

    def first(self, keyword: str) -> str:
        """A tag of its first file as text, "" where it has none; of several values the first."""
        value = self.headers[0].tags.get(keyword)
        value = value[0] if isinstance(value, pydicom.multival.MultiValue) and value else value
        return "" if value is None else harmless(str(value).strip())


@dataclass(frozen=True)
class LoadedSeries:
    """The series that a volume was read from.

    Attributes:
        number: SeriesNumber, as text.
        chosen: how it was chosen.
        slices: images in it.
        sha256: of the sorted SHA-256 sums of its files, so that neither names nor the order of the files matter.
        headers: every tag of its files but the pixels, with patient data; for a segmentation that refers to them.
        planes: (index of the header, index of the frame) of each slice along Z.
        slice_mm: distance of neighbouring slices.
    """

    number: str
    chosen: str
    slices: int
    sha256: str
    headers: list[Dataset] = field(repr=False)
    planes: list[tuple[int, int]] = field(repr=False)
    slice_mm: float

    def record(self) -> dict[str, Any]:
        """What a record says of it; no patient data."""
        return {"series": {"number": self.number, "chosen": self.chosen, "slices": self.slices}}


def read_series(
    source: str | Path, chosen: str = "", check_hu: bool = False
) -> tuple[np.ndarray, VolumeHeader, LoadedSeries]:
    """The voxels (X, Y, Z) float32 in HU of a CT series, its header as of a NIfTI file, and the series itself.

    Args:
        source: a folder (sub-folders and other files in it do no harm), a ZIP of one, or a multi-frame file.
        chosen: number or UID of the series; "" takes the only CT volume.
        check_hu: as in `medseg3d.volumes.reading.read_volume`.

    Raises:
        UserError: SERIES, MODALITY, MISSING_TAG, DIMENSIONS, DUPLICATE_SLICE, GANTRY_TILT, SLICE_GAP, GEOMETRY,
            SPACING_RANGE, TOO_LARGE, DTYPE, DECODE, TRUNCATED, and as `medseg3d.dicom.sources.dicom_files`.
    """
    source = Path(source)
    with dicom_files(source) as files:
        series, how = choose_series(source, files, chosen)
        planes, remarks = _without_copies(series)
        check_size(source, planes)
        affine, spacing, more = even_grid(source, planes)
        array, header_of, sums = _pixels(planes)
    headers = list(header_of.values())
    place = {path: index for index, path in enumerate(header_of)}
    shape = array.shape
    said = (*remarks, *more, *_tag_warnings(planes))
    geometry = geometry_of(shape, affine)
    header = VolumeHeader(
        source, (shape[0], shape[1], shape[2]), affine, array.dtype, 1.0, 0.0, geometry, said, _sum_of(sums)
    )
    if check_hu:
        header = with_scan_warnings(header, array, float(array.min()), float(array.max()))
    order = [(place[plane.file.path], plane.frame) for plane in planes]
    return array, header, LoadedSeries(series.number, how, len(planes), _sum_of(sums), headers, order, spacing[2])


def series_grid(source: str | Path, chosen: str = "") -> tuple[tuple[int, int, int], np.ndarray]:
    """Voxels along X, Y, Z and the affine of the series that would be read now, by its headers.

    Raises:
        UserError: as `read_series`, but for what only the pixels show.
    """
    with dicom_files(source) as files:
        planes, _ = _without_copies(choose_series(Path(source), files, chosen)[0])
        check_size(Path(source), planes)
        return (planes[0].columns, planes[0].rows, len(planes)), even_grid(Path(source), planes)[0]


def series_sha256(source: str | Path, chosen: str = "") -> str:
    """`LoadedSeries.sha256` of the series that would be read now.

    Raises:
        UserError: as `read_series`, but for what only the pixels show.
    """
    with dicom_files(source) as files:
        series, _ = choose_series(Path(source), files, chosen)
        return _sum_of({header.file.sha256() for header in series.headers})


def all_series_sha256(source: str | Path) -> set[str]:
    """`LoadedSeries.sha256` of every CT series of a source.

    Raises:
        UserError: as `medseg3d.dicom.sources.dicom_files`; TRUNCATED.
    """
    with dicom_files(source) as files:
        return {_sum_of({header.file.sha256() for header in each.headers}) for each in _grouped(files) if each.is_ct}


def choose_series(source: Path, files: Sequence[SourceFile], chosen: str) -> tuple[Series, str]:
    """The series to read, and how it was chosen.

    Raises:
        UserError: SERIES, MODALITY, TRUNCATED.
    """
    found = _grouped(files)
    how = f"--series {chosen}" if chosen else f"the only CT volume of {len(found)} series"
    if chosen:
        named = [each for each in found if chosen in (each.number, each.uid)]
        if not named:
            raise UserError("SERIES", source, f"no series {chosen}", f"one of {_listed(found)}", "correct --series")
        found = named
    volumes = [each for each in found if each.is_ct]
    if len(volumes) > 1:
        volumes = [each for each in volumes if _is_volume(each)] or volumes
    if not volumes:
        kinds = ", ".join(sorted({each.first("Modality") or "no modality" for each in found})) or "no image"
        raise UserError(
            "MODALITY", source, kinds, "a CT series", "name a folder with a CT, or choose one with --series"
        )
    if len(volumes) > 1:
        remedy = "choose one with --series NUMBER or UID, or name the folder of that series"
        raise UserError("SERIES", source, f"{len(volumes)} CT volumes: {_listed(volumes)}", "one", remedy)
    return volumes[0], how


def _grouped(files: Sequence[SourceFile]) -> list[Series]:
    """Every series with images, in the order of their numbers."""
    groups: dict[tuple, list[Header]] = {}
    for file in files:
        header = _header(file)
        if header.sop_class in _NOT_IMAGES or "Rows" not in header.tags:
            continue
        tags = header.tags
        # two patients or studies under one UID are two series, and a localizer is one of its own
        keys = ("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "FrameOfReferenceUID", "SeriesNumber", "Modality")
        localizer = "LOCALIZER" in (tags.get("ImageType") or ())
        groups.setdefault((*(str(tags.get(key) or "") for key in keys), localizer), []).append(header)
    series = [
        Series(headers, key[4], key[0], not key[-1] and all(header.sop_class in _CT for header in headers))
        for key, headers in groups.items()
    ]
    return sorted(series, key=lambda each: (len(each.number), each.number, each.uid))


def _header(file: SourceFile) -> Header:
    with damaged_member(file.path), file.open() as opened:
        deflated = check_inflated(file, opened)
        opened.seek(0)
        tags = _parsed(file, opened, stop_before_pixels=True, specific_tags=list(_TAGS), converted=True)
        whole = deflated or len(opened.read(4)) == 4
    header = Header(file, tags)
    if header.sop_class in _CT and not whole:  # it ended before its pixels
        raise truncated(file.path, file.size, None)
    return header


def _parsed(file: SourceFile, opened: IO[bytes], converted: bool = False, **options: Any) -> Dataset:
    """The data set, its values converted at once or, as pydicom does it, when they are requested."""
    try:
        tags = pydicom.dcmread(opened, **options)
        if converted:
            list(tags.iterall())
        return tags
    except (EOFError, struct.error) as error:
        raise truncated(file.path, file.size, None) from error
    except Exception as error:  # of any kind, on bytes that are no data set, and quoting them
        found = f"a damaged data set ({type(error).__name__})"
        raise UserError("NOT_DICOM", file.path, found, "a DICOM file", "export or copy it again") from None


def _is_volume(series: Series) -> bool:
    """Whether its images lie at more than one place, unlike those of bolus tracking; so do they until it is known."""
    try:
        planes = _planes(series)
    except UserError:
        return True
    return not all(planes[0].lies_at(plane) for plane in planes)


def _listed(found: Sequence[Series]) -> str:
    """Number, description, slices, spacing and kernel of each; the UID where the number is not enough."""
    numbers = Counter(each.number for each in found)
    said = [_described(each, numbers[each.number] > 1) for each in found[:_LISTED]]
    return ", ".join(said) + (f", and {len(found) - _LISTED} more" if len(found) > _LISTED else "")


def _described(series: Series, ambiguous: bool) -> str:
    name = series.number or "no number"
    if ambiguous or not series.number:
        name += f" = {series.uid or 'no UID'}"
    try:
        _, spacing, _ = even_grid(series.headers[0].file.path, sorted_planes(_planes(series)))
        sizes = in_mm(spacing)
    except UserError as error:
        sizes = f"not usable: {error.code}"
    kernel = series.first("ConvolutionKernel")
    slices = sum(int(header.tags.get("NumberOfFrames") or 1) for header in series.headers)
    parts = [
        f'"{series.first("SeriesDescription")}"',
        series.first("Modality"),
        f"{slices} slices",
        sizes,
        *([f"kernel {kernel}"] if kernel else []),
    ]
    return f"{name} ({', '.join(parts)})"


def _planes(series: Series) -> list[Plane]:
    return [plane for header in series.headers for plane in planes_of(header.file, header.tags)]


def _without_copies(series: Series) -> tuple[list[Plane], list[str]]:
    """The planes along the normal, less those of files that are copies, byte for byte, of another one.

    Raises:
        UserError: DUPLICATE_SLICE, and as `planes_of`.
    """
    planes = sorted_planes(_planes(series))
    kept: list[Plane] = []
    copies = 0
    sha256 = functools.cache(SourceFile.sha256)
    for plane in planes:
        last = kept[-1] if kept else None
        if last is None or not last.lies_at(plane):
            kept.append(plane)
        elif last.file is not plane.file and sha256(last.file) == sha256(plane.file):
            copies += 1
        else:
            found = f"the position of {last.file.path.name}, but other content"
            remedy = "use a folder with one phase or reconstruction only, or choose one with --series"
            raise UserError("DUPLICATE_SLICE", plane.file.path, found, "one image for each position", remedy)
    return kept, [f"DUPLICATE_SLICE: {copies} files are copies of others and were ignored"] if copies else []


def _pixels(planes: Sequence[Plane]) -> tuple[np.ndarray, dict[Path, Dataset], set[str]]:
    """Voxels (X, Y, Z) float32; all tags of each file but the pixels; the sums of the files."""
    volume = np.empty((planes[0].columns, planes[0].rows, len(planes)), np.float32, order="F")
    of_file: dict[Path, list[int]] = {}
    for index, plane in enumerate(planes):
        of_file.setdefault(plane.file.path, []).append(index)
    headers: dict[Path, Dataset] = {}
    sums = set()
    with GdcmProcess() as gdcm:
        for path, places in of_file.items():
            file = planes[places[0]].file
            content = file.read()
            sums.add(hashlib.sha256(content).hexdigest())
            tags = _parsed(file, io.BytesIO(content))
            wanted = {place: planes[place] for place in places}
            for place, values in hounsfield(file, content, tags, wanted, gdcm):
                volume[:, :, place] = values.T
            del tags.PixelData
            headers[path] = tags
    return volume, headers, sums


def _sum_of(sums: set[str]) -> str:
    return hashlib.sha256("\n".join(sorted(sums)).encode()).hexdigest()


def _tag_warnings(planes: Sequence[Plane]) -> Iterator[str]:
    if any(plane.scaling is None for plane in planes):
        yield "RESCALE: no RescaleSlope or RescaleIntercept; the values are taken as they are stored"
    kinds = {plane.unit for plane in planes} - {"", "HU"}
    if kinds:
        yield f"RESCALE: the values are {', '.join(sorted(kinds))}, not HU"
    if any(plane.lossy for plane in planes):
        yield "LOSSY: the images were lossily compressed"
    bright = [plane.padding for plane in planes if plane.padding is not None and plane.padding > _BRIGHT_PADDING]
    if bright:
        yield f"PADDING: voxels outside the field of view are {bright[0]:g} HU, which is not air"
