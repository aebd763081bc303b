"""Masks in the formats of their images; SimpleITK reads them and is the judge."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medseg3d.files.signature import is_ours
from medseg3d.volumes.reading import read_header, read_volume
from medseg3d.volumes.writing import write_mask, write_probabilities

SHAPE = (7, 6, 5)
FORMATS = (".nii.gz", ".nrrd", ".mha")
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([-0.8, 0.7, 2.5]), [12.5, -40.0, 900.0]
)


def mask() -> np.ndarray:
    return np.asfortranarray(np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8))


def written_by_itk(path: Path) -> Path:
    image = sitk.GetImageFromArray(np.zeros(SHAPE[::-1], np.int16))
    cosine, sine = np.cos(0.3), np.sin(0.3)
    image.SetSpacing((0.8, 0.7, 2.5))
    image.SetOrigin((-100.3, 50.1, -33.3))
    image.SetDirection((cosine, -sine, 0, sine, cosine, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))
    return path


def grid_of(image: sitk.Image) -> tuple:
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize("suffix", FORMATS)
def test_itk_reads_the_mask_that_was_written(tmp_path: Path, suffix: str) -> None:
    write_mask(tmp_path / f"seg{suffix}", mask(), affine=OBLIQUE)
    image = sitk.ReadImage(str(tmp_path / f"seg{suffix}"))
    assert image.GetPixelID() == sitk.sitkUInt8
    assert np.array_equal(sitk.GetArrayFromImage(image).T, mask())
    corner = np.array(image.TransformIndexToPhysicalPoint((6, 5, 4)))
    assert corner * (-1, -1, 1) == pytest.approx(nib.affines.apply_affine(OBLIQUE, (6, 5, 4)), abs=1e-4)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_mask_in_the_format_of_its_source_has_its_geometry_to_the_letter(tmp_path: Path, suffix: str) -> None:
    source = written_by_itk(tmp_path / f"ct{suffix}")
    seg = tmp_path / f"seg{'.nrrd' if suffix == '.nhdr' else '.mha' if suffix == '.mhd' else suffix}"
    write_mask(seg, mask(), read_header(source).geometry)
    assert grid_of(sitk.ReadImage(str(seg))) == grid_of(sitk.ReadImage(str(source)))
    assert read_header(seg).geometry == read_header(source).geometry


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_any_format_goes_into_any_other(tmp_path: Path, source: str, suffix: str) -> None:
    header = read_header(written_by_itk(tmp_path / f"ct{source}"))
    write_mask(tmp_path / f"seg{suffix}", mask(), header.geometry, header.affine)
    array, of_mask = read_volume(tmp_path / f"seg{suffix}")
    assert np.array_equal(array, mask())
    assert np.abs(of_mask.affine - header.affine).max() < 1e-5


@pytest.mark.parametrize("space", ["space: right-anterior-superior", "space: LPS", "space dimension: 3"])
def test_space_of_an_nrrd_is_kept(tmp_path: Path, space: str) -> None:
    directions = "space directions: (2,0,0) (0,3,0) (0,0,4)"
    head = f"NRRD0005\ntype: uchar\ndimension: 3\n{space}\nsizes: 7 6 5\n{directions}\nencoding: raw\n\n"
    (tmp_path / "ct.nrrd").write_bytes(head.encode() + bytes(210))
    write_mask(tmp_path / "seg.nrrd", mask(), read_header(tmp_path / "ct.nrrd").geometry)
    assert f"\n{space}\n{directions}\n".encode() in (tmp_path / "seg.nrrd").read_bytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_probabilities_are_float32(tmp_path: Path, suffix: str) -> None:
    prob = np.random.default_rng(0).random(SHAPE, np.float32)
    write_probabilities(tmp_path / f"prob{suffix}", prob, affine=OBLIQUE)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"prob{suffix}"))).T, prob)


@pytest.mark.parametrize("suffix", FORMATS)
def test_mask_says_who_wrote_it_and_two_are_equal(tmp_path: Path, suffix: str) -> None:
    sums = {write_mask(tmp_path / f"{name}{suffix}", mask(), affine=OBLIQUE) for name in "ab"}
    assert len(sums) == 1
    assert is_ours(tmp_path / f"a{suffix}")
    assert not is_ours(written_by_itk(tmp_path / f"ct{suffix}"))


def test_geometry_of_another_format_needs_an_affine(tmp_path: Path) -> None:
    geometry = read_header(written_by_itk(tmp_path / "ct.mha")).geometry
    with pytest.raises(ValueError, match="affine"):
        write_mask(tmp_path / "seg.nrrd", mask(), geometry)
