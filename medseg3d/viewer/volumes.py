"""A scan and its masks as files that a browser reads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from scipy import ndimage

from medseg3d.data.loaded_pairs import volume_values
from medseg3d.dicom.sources import is_dicom, is_zip, require_packages
from medseg3d.pictures.colours import LABEL_COLOURS
from medseg3d.viewer.layers import label_entries, scene_file
from medseg3d.volumes.geometry import check_pair
from medseg3d.volumes.header import VolumeHeader
from medseg3d.volumes.label_maps import label_counts
from medseg3d.volumes.planes import mask_centre
from medseg3d.volumes.reading import read_volume

WINDOWS_HU = {"Abdomen": (-160, 240), "Bone": (-500, 1300), "Lung": (-1350, 150)}
"""Black and white end of the usual windows of a CT."""

_OUTLIERS = 0.5  # per cent of the voxels of what is not CT that are left to black, and to white
_INTEGERS = (np.uint8, np.int16)


def volume_page(
    scan: Path, masks: Mapping[str, Path], class_names: Sequence[str] = (), series: str = ""
) -> dict[str, bytes]:
    """Name -> content of `scene.json` and of the volumes that it names, all on the grid of the scan.

    Args:
        scan: NIfTI, NRRD, MetaImage or DICOM.
        masks: name -> label map or map of probabilities, which fractions tell apart.
        class_names: of the label values 1, 2, ...
        series: of DICOM, the number or UID of the series.

    Raises:
        UserError: as `medseg3d.volumes.reading.read_volume` or `medseg3d.dicom.series.read_series`; PAIR_GEOMETRY;
            LABEL_SET.
    """
    array, header = _read_scan(scan, series)
    files = {"scan.nii.gz": _nifti(_narrowed(array), header)}
    image = {"file": "scan.nii.gz", **_grey(array, header)}
    del array
    voxel_ml = float(np.prod(header.spacing)) / 1000
    colours = itertools.cycle(LABEL_COLOURS)
    layers: list[dict[str, Any]] = []
    for name, path in masks.items():
        voxels, mask_header = read_volume(path)
        check_pair(header, mask_header)
        kind, values = volume_values(voxels, mask_header)
        layer: dict[str, Any] = {"name": name, "file": f"mask{len(layers)}.nii.gz", "kind": kind}
        if kind == "mask":
            layer["labels"] = label_entries(path, name, label_counts(values) or {1: 0}, class_names, colours)
            centres = _centres(values, header.affine)
            for label in layer["labels"]:
                label["size"] = f"{label['count'] * voxel_ml:.1f} ml"
                label["centre"] = centres.get(label["value"])
        else:
            highest = np.unravel_index(values.argmax(), values.shape)
            layer["centre"] = nib.affines.apply_affine(header.affine, highest).tolist()
        files[layer["file"]] = _nifti(values, header)
        layers.append(layer)
    return {**files, "scene.json": scene_file("volume", scan, image, layers)}


def _read_scan(scan: Path, series: str) -> tuple[np.ndarray, VolumeHeader]:
    if not (scan.is_dir() or is_dicom(scan) or is_zip(scan)):
        return read_volume(scan, check_hu=True)
    require_packages(scan)
    from medseg3d.dicom.series import read_series  # of the extra dicom

    return read_series(scan, series, check_hu=True)[:2]


def _narrowed(array: np.ndarray) -> np.ndarray:
    """The same values in the fewest bytes that hold them, float32 at most."""
    for dtype in _INTEGERS:
        if array.dtype == dtype:
            return array
        with np.errstate(invalid="ignore"):
            narrow = array.astype(dtype, order="K")
        if np.array_equal(narrow, array):
            return narrow
    return array.astype(np.float32, order="K", copy=False)


def _grey(array: np.ndarray, header: VolumeHeader) -> dict[str, Any]:
    """Unit of the values and the windows to see them in, the first at once."""
    low, high = float(array.min()), float(array.max())
    if any(warning.startswith("HU_RANGE") for warning in header.warnings):
        sample = array.reshape(-1, order="A")[:: (array.size >> 20) | 1]
        dark, bright = np.percentile(sample, (_OUTLIERS, 100 - _OUTLIERS)).tolist()
        windows = {"Auto": (dark, bright if bright > dark else dark + 1)}
        unit = ""
    else:
        windows, unit = dict(WINDOWS_HU), "HU"
    windows["Full range"] = (low, high if high > low else low + 1)
    return {
        "unit": unit,
        "windows": [{"name": name, "low": ends[0], "high": ends[1]} for name, ends in windows.items()],
    }


def _centres(values: np.ndarray, affine: np.ndarray) -> dict[int, tuple[float, float, float] | None]:
    """Of each label, a point in mm (RAS) where it is, near its middle."""
    centres = {}
    for value, box in enumerate(ndimage.find_objects(values), start=1):
        if box is not None:
            shift = np.eye(4)
            shift[:3, 3] = [part.start for part in box]
            centres[value] = mask_centre(values[box] == value, affine @ shift)
    return centres


def _nifti(array: np.ndarray, header: VolumeHeader) -> bytes:
    """A compressed NIfTI on the grid of the scan, with nothing of its header but the geometry."""
    return igzip.compress(nib.Nifti1Image(array, header.affine).to_bytes(), 1)
