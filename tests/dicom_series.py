"""Small DICOM series for tests, written with pydicom: a CT of 16 x 14 x 6 voxels unless something else is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (6, 14, 16)  # slices, rows, columns
SPACING = (2.5, 0.8, 0.7)  # mm between slices, rows, columns
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.96, 0.28, 0.0, -0.28 * 0.8, 0.96 * 0.8, 0.6)
ORIGIN = np.array([-120.5, -33.25, 410.0])
PLANTED = {
    "PatientName": "Plantedname^Erika",
    "PatientID": "planted-id-4711",
    "PatientBirthDate": "19471103",
    "OtherPatientIDs": "planted-other-4712",
    "PatientAddress": "Plantedstreet 9",
    "ReferringPhysicianName": "Planteddoctor^Hans",
    "InstitutionName": "Planted Hospital",
    "AccessionNumber": "planted4713",
}


def stored_values(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """What the scanner stores (slices, rows, columns) uint16: air, tissue and bone, for an intercept of -1024."""
    return np.random.default_rng(seed).choice(np.array([4, 1000, 1060, 1800, 2300], np.uint16), size=shape)


def uid(*words: object) -> str:
    """The same UID for the same words."""
    return generate_uid(entropy_srcs=[str(word) for word in words])


def write_series(
    folder: Path,
    values: np.ndarray | None = None,
    *,
    number: int = 1,
    orientation: tuple[float, ...] = AXIAL,
    change: Callable[[Dataset, int], object] = lambda tags, index: None,
    name: Callable[[int], str] = "IM{:04}".format,
) -> list[Path]:
    """The files of a series, one for each slice along the normal; `change(tags, index)` alters each before."""
    values = stored_values(number) if values is None else values
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, plane in enumerate(values):
        tags = ct_slice(plane, index, number, orientation)
        change(tags, index)
        paths.append(folder / name(index))
        tags.save_as(paths[-1], enforce_file_format=True)
    return paths


def ct_slice(plane: np.ndarray, index: int, number: int, orientation: tuple[float, ...]) -> FileDataset:
    tags = _image(CTImageStorage, number, index)
    normal = np.cross(orientation[:3], orientation[3:])
    tags.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    tags.InstanceNumber = index + 1
    tags.ImagePositionPatient = [f"{mm:.8g}" for mm in ORIGIN + index * SPACING[0] * normal]
    tags.ImageOrientationPatient = list(orientation)
    tags.PixelSpacing = list(SPACING[1:])
    tags.SliceThickness = SPACING[0]
    tags.RescaleSlope, tags.RescaleIntercept, tags.RescaleType = 1, -1024, "HU"
    _set_pixels(tags, plane)
    return tags


def write_enhanced(path: Path, values: np.ndarray | None = None, order: tuple[int, ...] = (3, 0, 5, 1, 2, 4)) -> Path:
    """An enhanced CT whose frames come in another order than their places, each with an intercept of its own."""
    values = stored_values() if values is None else values
    tags = _image(EnhancedCTImageStorage, 1, 0)
    tags.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    tags.NumberOfFrames = len(order)
    shared = Dataset()
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = list(AXIAL)
    measures.PixelSpacing, measures.SliceThickness = list(SPACING[1:]), SPACING[0]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    tags.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for index in order:
        groups, position, scaling, content = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [*ORIGIN[:2], ORIGIN[2] + index * SPACING[0]]
        scaling.RescaleSlope, scaling.RescaleIntercept, scaling.RescaleType = 1, -1024 - index, "HU"
        content.StackID, content.InStackPositionNumber = "1", index + 1
        content.DimensionIndexValues = [1, index + 1]
        groups.PlanePositionSequence = Sequence([position])
        groups.PixelValueTransformationSequence = Sequence([scaling])
        groups.FrameContentSequence = Sequence([content])
        frames.append(groups)
    tags.PerFrameFunctionalGroupsSequence = Sequence(frames)
    _set_pixels(tags, values[list(order)])
    path.parent.mkdir(parents=True, exist_ok=True)
    tags.save_as(path, enforce_file_format=True)
    return path


def _image(sop_class: str, number: int, index: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, uid("image", number, index)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    tags = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    tags.SOPClassUID, tags.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    tags.update(PLANTED)
    tags.PatientSex = "F"
    tags.StudyInstanceUID, tags.SeriesInstanceUID = uid("study"), uid("series", number)
    tags.FrameOfReferenceUID = uid("frame of reference", number)
    tags.StudyID, tags.StudyDate, tags.StudyTime = "7", "20260102", "101112"
    tags.SeriesNumber, tags.SeriesDescription, tags.Modality = number, f"Abdomen {number}", "CT"
    tags.Manufacturer, tags.ConvolutionKernel = "Test", "B30f"
    tags.PositionReferenceIndicator = ""
    return tags


def _set_pixels(tags: Dataset, values: np.ndarray) -> None:
    tags.Rows, tags.Columns = values.shape[-2:]
    tags.SamplesPerPixel, tags.PhotometricInterpretation = 1, "MONOCHROME2"
    tags.BitsAllocated, tags.BitsStored, tags.HighBit = 16, 16, 15
    tags.PixelRepresentation = int(values.dtype.kind == "i")
    tags["PixelRepresentation"].VR = "US"
    tags.PixelData = values.astype(values.dtype.newbyteorder("<")).tobytes()
    tags["PixelData"].VR = "OW"
