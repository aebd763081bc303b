"""Abdomen-like CT phantoms with a pancreas: data to try, test and demonstrate everything on without a download.

They are drawn, not simulated: a body of ellipsoids and tubes in millimetres, bent by a smooth random field, filled with
HU as in the portal-venous phase, blurred and made noisy. The pancreas is a curved, lobulated tube of varying course.
Collapsed bowel, liver, spleen and muscle share its HU, so no threshold finds it; its surroundings and texture do.
A phantom proves that a pipeline works. It says nothing about accuracy on patients.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from medseg3d.errors import UsageError
from medseg3d.phantoms.anatomy import draw_abdomen
from medseg3d.phantoms.canvas import Canvas

ORIENTATIONS = ("LPS", "RAS", "LAS", "PIR", "RPI", "ASL", "LPI", "SRA")
"""Axis codes (nibabel's: where each axis points to) that the cases of a data set take in turn."""

_BODY_AXIS = {"R": "x", "L": "x", "A": "y", "P": "y", "S": "z", "I": "z"}

LABELS = {0: "background", 1: "pancreas", 2: "cancer"}
NAME = "PhantomPancreas"


class Phantom(NamedTuple):
    """One volume with its label.

    Args:
        ct: int16 HU, (X, Y, Z), -1024 to about 1100.
        label: uint8 of the same shape: 0 background, 1 pancreas, 2 tumour.
        affine: 4x4, voxel index to world millimetres (RAS+).
    """

    ct: np.ndarray
    label: np.ndarray
    affine: np.ndarray


def make_phantom(
    seed: int,
    *,
    size_mm: Sequence[float] = (340, 340, 240),
    spacing_mm: Sequence[float] | None = None,
    orientation: str | None = None,
    tumour: bool | None = None,
) -> Phantom:
    """An abdominal CT in HU, its pancreas label and its affine; equal for equal arguments.

    Args:
        seed: decides everything that is not given.
        size_mm: field of view, left-right, back-front, feet-head.
        spacing_mm: voxel size in the same order; by default 2.3 to 2.9 mm in plane and 4 to 6 mm between slices, by
            seed. (6, 6, 10) makes a phantom of 57x57x24 voxels for tests.
        orientation: three axis codes such as "LPS"; by default one of `ORIENTATIONS`, by seed. It changes how voxels
            are stored, not where anything lies in the world.
        tumour: whether the pancreas has a tumour; by default every second seed on average.

    Raises:
        ValueError: a spacing or size that is not positive, or an unknown orientation.

    Example:
        >>> ct, label, affine = make_phantom(0, spacing_mm=(6, 6, 10), orientation="LPS")
        >>> ct.shape, ct.dtype, label.dtype, nib.aff2axcodes(affine)
        ((57, 57, 24), dtype('int16'), dtype('uint8'), ('L', 'P', 'S'))
    """
    # children of one seed, so that what is given does not shift what is drawn for the rest
    anatomy, texture, geometry = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
    drawn_spacing = (*[geometry.uniform(2.3, 2.9)] * 2, geometry.uniform(4.0, 6.0))
    drawn_orientation = ORIENTATIONS[geometry.integers(len(ORIENTATIONS))]
    centre_mm = geometry.uniform((-30, -160, -400), (30, 40, 400))
    drawn_tumour = bool(anatomy.random() < 0.5)
    spacing = np.asarray(drawn_spacing if spacing_mm is None else spacing_mm, dtype=float)
    size = np.asarray(size_mm, dtype=float)
    if spacing.shape != (3,) or size.shape != (3,) or not (spacing > 0).all() or not (size > 0).all():
        raise ValueError(f"size_mm and spacing_mm must be three positive numbers, got {size_mm} and {spacing_mm}")
    codes = drawn_orientation if orientation is None else orientation
    if sorted(_BODY_AXIS.get(code, "?") for code in codes) != ["x", "y", "z"]:
        raise ValueError(f"orientation must name each body axis once, such as 'LPS', got {orientation!r}")

    canvas = Canvas(np.maximum(np.rint(size / spacing).astype(int), 8), spacing, texture, anatomy)
    draw_abdomen(canvas, anatomy, drawn_tumour if tumour is None else tumour)
    ct, label = canvas.image(texture), canvas.label
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = centre_mm - spacing * (np.array(ct.shape) - 1) / 2
    return Phantom(*_reorient(ct, label, affine, codes))


def write_phantom_dataset(
    folder: str | Path,
    cases: int = 12,
    seed: int = 0,
    *,
    test_images: int = 2,
    spacing_mm: Sequence[float] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write phantoms in the MSD layout (`dataset.json`, `imagesTr`, `labelsTr`, `imagesTs`); the folder comes back.

    About every second case has a tumour; orientations take turns. The data set is written next to the folder and moved
    there when it is complete.

    Args:
        folder: the data set's folder.
        cases: number of labelled volumes.
        seed: seed of the data set.
        test_images: number of unlabelled volumes in `imagesTs`.
        spacing_mm: voxel size of each volume; varies by case if None.
        overwrite: replace a data set of phantoms that is there already.

    Raises:
        UserError: NOT_EMPTY if the folder holds anything (unless `overwrite` and it holds phantoms).
        ValueError: `cases` below 1 or `test_images` below 0.
    """
    if cases < 1 or test_images < 0:
        raise ValueError(f"cases must be >= 1 and test_images >= 0, got {cases} and {test_images}")
    folder = Path(folder).expanduser().absolute()
    with whole_data_set(folder, overwrite, "dataset.json", NAME) as partial:
        training, test = [], []
        for number in range(1, cases + test_images + 1):
            labelled = number <= cases
            name = f"phantom_{number:03d}.nii.gz"
            phantom = make_phantom(
                case_seed(seed, number),
                spacing_mm=spacing_mm,
                orientation=ORIENTATIONS[(number - 1) % len(ORIENTATIONS)],
                tumour=number % 2 == 0,
            )
            image = f"./imagesTr/{name}" if labelled else f"./imagesTs/{name}"
            _write_nifti(phantom.ct, phantom.affine, partial / image)
            if labelled:
                _write_nifti(phantom.label, phantom.affine, partial / f"./labelsTr/{name}")
                training.append({"image": image, "label": f"./labelsTr/{name}"})
            else:
                test.append(image)
        content = {
            "name": NAME,
            "description": f"Generated abdominal CT phantoms with a pancreas, seed {seed}; not patients",
            "reference": "medseg3d phantom",
            "licence": "Apache-2.0",
            "tensorImageSize": "3D",
            "modality": {"0": "CT"},
            "labels": {str(value): name for value, name in LABELS.items()},
            "numTraining": len(training),
            "numTest": len(test),
            "training": training,
            "test": test,
        }
        (partial / "dataset.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return folder


def case_seed(seed: int, number: int) -> int:
    """The seed of one case of a data set of phantoms."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


@contextmanager
def whole_data_set(folder: Path, overwrite: bool, marker: str, name: str) -> Iterator[Path]:
    """Context with a folder next to that of a data set, which it becomes at the end.

    Only with `overwrite` it replaces one of its kind.

    The JSON file `marker` says by its "name" what a folder holds.

    Raises:
        UserError: NOT_EMPTY for a folder that holds anything but phantoms of this name, and these unless `overwrite`.
    """
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        try:
            ours = json.loads((folder / marker).read_text(encoding="utf-8"))["name"] == name
        except (OSError, ValueError, KeyError, TypeError):
            ours = False
        if not (ours and overwrite):
            what = "phantoms" if ours else "something other than phantoms"
            remedy = "pass --overwrite to replace them, or name another folder" if ours else "name another folder"
            raise UsageError("NOT_EMPTY", folder, what, "an empty or new folder", remedy)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_nifti(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def _reorient(
    ct: np.ndarray, label: np.ndarray, affine: np.ndarray, codes: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same voxels at the same places of the world, stored along the axes `codes`."""
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    turned = affine @ nib.orientations.inv_ornt_aff(turn, ct.shape)
    ct, label = (np.ascontiguousarray(nib.orientations.apply_orientation(array, turn)) for array in (ct, label))
    return ct, label, turned
