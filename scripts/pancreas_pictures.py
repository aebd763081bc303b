r"""Slice images to train pancreas_nl_2d's shipped weights on: those of a folder, and slices without a pancreas.

    python scripts/pancreas_pictures.py data/pancreas_pictures --pictures nih-pancreas-2d --leave-out 0001 \
        --negatives example_ct.nii.gz example_seg_fast_force_split.nii.gz 7 --upper example_ct_dicom 13

Every 2-D image of a folder of NIH Pancreas-CT shows the pancreas; a network trained on those alone marks one in every
slice of a volume. `--negatives` takes the slices of a scan that its label says are without, MARGIN_MM away from the
organ and one every STEP_MM; `--upper` those of a DICOM series or a volume from a slice on that somebody has looked at.
They are written as the NIH images are: HU clipped to 0..255, three equal channels, rows towards anterior, columns
towards the patient's left, JPEG; the mask is black. 2-D images of the folder are linked, but for patients left out.

A scan gets a patient's number from 9001 on, the first that the rule of the split (seed 0, 10 test, 7 validation
patients) leaves to the training set: parts are chosen by rank, and a scan of another kind should judge nothing.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK
from PIL import Image

from medseg3d.data.picture_folders import read_picture_folder
from medseg3d.data.splits import make_split
from medseg3d.errors import UsageError, UserError
from medseg3d.pictures.writing import write_picture_mask

PATIENT = r"PANCREAS_(\d+)-"
TEST_PATIENTS, VAL_PATIENTS, SEED = 10, 7, 0
MARGIN_MM, STEP_MM = 9.0, 6.0
QUALITY = 95
"""Of the JPEG: an image without JPEG's marks could be told from the others by their absence."""


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder")
    parser.add_argument("--pictures", type=Path, required=True, help="folder with images/ and masks/")
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="PATIENT", help="patients kept for a test")
    parser.add_argument("--negatives", nargs=3, action="append", default=[], metavar=("SCAN", "LABEL", "VALUE"))
    parser.add_argument("--upper", nargs=2, action="append", default=[], metavar=("SCAN", "FIRST"))
    args = parser.parse_args()
    if args.folder.exists():
        parser.error(f"{args.folder} exists")
    try:
        patients = link_pictures(args.folder, args.pictures, args.leave_out)
        numbers = training_patients(patients)
        for scan, label, value in args.negatives:
            volume = read_as_pictures(Path(scan))
            slices = slices_without(SimpleITK.GetArrayFromImage(read_as_pictures(Path(label))) == int(value), volume)
            write_negatives(args.folder, next(numbers), volume, slices)
        for scan, first in args.upper:
            volume = read_as_pictures(Path(scan))
            write_negatives(
                args.folder, next(numbers), volume, every_step(range(int(first), volume.GetDepth()), volume)
            )
    except UserError as error:
        parser.exit(1, f"error: {error}\n")


def link_pictures(folder: Path, pictures: Path, leave_out: list[str]) -> list[str]:
    """Link every image and mask of the other patients into `folder`; the patients linked."""
    patients = set()
    for case in read_picture_folder(pictures, PATIENT):
        if case["group"] in leave_out:
            continue
        patients.add(case["group"])
        for part, key in (("images", "image"), ("masks", "label")):
            source = Path(case[key])
            (folder / part).mkdir(parents=True, exist_ok=True)
            (folder / part / source.name).symlink_to(source.resolve())
    return sorted(patients)


def training_patients(patients: list[str]) -> Iterator[str]:
    """Numbers from 9001 on that are in the training set beside these patients."""
    for number in map(str, itertools.count(9001)):
        if number in make_split([*patients, number], TEST_PATIENTS, VAL_PATIENTS, SEED).train:
            yield number


def read_as_pictures(path: Path) -> SimpleITK.Image:
    """A NIfTI file or a folder of one DICOM series, as (columns to the left, rows to anterior, slices upwards)."""
    if path.is_dir():
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
        image = reader.Execute()
    elif path.is_file():
        image = SimpleITK.ReadImage(str(path))
    else:
        raise UsageError("MISSING_FILE", path, "no such file", "a NIfTI volume or a folder of DICOM")
    return SimpleITK.DICOMOrient(image, "LAS")


def slices_without(organ: np.ndarray, volume: SimpleITK.Image) -> list[int]:
    """Slices at least MARGIN_MM away from the organ (Z, Y, X), one every STEP_MM."""
    if organ.shape[0] != volume.GetDepth():
        raise UserError("PAIR_GEOMETRY", "label", f"{organ.shape[0]} slices", f"{volume.GetDepth()}, as the scan")
    shown = np.flatnonzero(organ.any(axis=(1, 2)))
    if not len(shown):
        raise UserError("LABEL_SET", "label", "no voxel of the organ", "a label that shows where the organ is")
    away = round(MARGIN_MM / volume.GetSpacing()[2])
    without = [z for z in range(len(organ)) if z < shown[0] - away or z > shown[-1] + away]
    return every_step(without, volume)


def every_step(slices: list[int] | range, volume: SimpleITK.Image) -> list[int]:
    """One of these slices every STEP_MM."""
    return list(slices)[:: max(1, round(STEP_MM / volume.GetSpacing()[2]))]


def write_negatives(folder: Path, patient: str, volume: SimpleITK.Image, slices: list[int]) -> None:
    """Write the slices and their empty masks as images of a patient."""
    array = SimpleITK.GetArrayViewFromImage(volume)
    for z in slices:
        grey = np.clip(np.rint(array[z]), 0, 255).astype(np.uint8)
        name = f"PANCREAS_{patient}-{z:04d}"
        Image.fromarray(np.stack([grey] * 3, axis=-1)).save(folder / "images" / f"{name}.jpg", quality=QUALITY)
        write_picture_mask(folder / "masks" / f"{name}.png", np.zeros(grey.shape, bool))
    print(f"patient {patient}: {len(slices)} slices without a pancreas")


if __name__ == "__main__":
    main()
