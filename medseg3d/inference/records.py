"""What the record next to a mask says: what was segmented, with what, and what came out."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import monai
import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from medseg3d import __version__
from medseg3d.data.outputs import record_file
from medseg3d.data.pseudonyms import without_uids
from medseg3d.data.records import INTENDED_USE, read_record
from medseg3d.files.atomic import atomic_write
from medseg3d.files.stream import file_sha256
from medseg3d.precision import Precision, resolved
from medseg3d.volumes.label_maps import label_counts

_OF_WINDOWS = ("roi_size", "overlap", "mirror_axes", "region_tau", "region_margin")


def provenance(
    network: Any,
    inferer: Any,
    preprocessing: Any,
    precision: Precision | str,
    device: torch.device,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The parts of a record that say what a mask is made with; another value is another mask."""
    return {
        "model": {"class": type(network).__name__, "sha256": getattr(network, "weights_sha256", None)},
        "preprocessing": _steps(preprocessing),
        "inference": {
            "class": type(inferer).__name__,
            # the inferer's is the inner one
            "precision": str(resolved(getattr(inferer, "precision", precision), device)),
            **{name: getattr(inferer, name) for name in _OF_WINDOWS if hasattr(inferer, name)},
        },
        "settings": settings,
    }


def case_record(
    item: Mapping[str, Any],
    result: Mapping[str, Any],
    made_with: Mapping[str, Any],
    made_by: Mapping[str, str],
    seconds: Mapping[str, float],
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """What the record of a case says, in plain JSON types.

    Args:
        item: `image`, and the files that the case has, as `medseg3d.data.outputs.input_items` gives it.
        result: the item after postprocessing: `pred` is its mask, (1, X, Y, Z) or (1, H, W).
        made_with: as `provenance` gives it.
        made_by: `device` and `engine`, which make no other mask.
        seconds: stage -> what it took.
        class_names: of the labels 1, 2, ..., as far as they are known.
    """
    mask = result["pred"]
    meta = mask.meta if isinstance(mask, MetaTensor) else {}
    is_volume = mask.ndim == 4
    affine = np.asarray(mask.affine) if isinstance(mask, MetaTensor) else np.eye(4)
    source, series = Path(str(item["image"])), result["series"].record() if "series" in item else {}
    if "pseudonym" in item and series:
        series["series"]["chosen"] = without_uids(series["series"]["chosen"])
    warnings = [line for line in str(meta.get("warnings", "")).splitlines() if line]
    labels = _sizes(mask, affine)
    geometry: dict[str, Any] = {"shape": list(mask.shape[1:])}
    if is_volume:
        geometry |= {
            "spacing_mm": np.linalg.norm(affine[:3, :3], axis=0).round(6).tolist(),
            "orientation": "".join(nib.aff2axcodes(affine)),
            "affine": affine.tolist(),
        }
    if not labels:
        warnings.append(f"EMPTY_MASK: no {'voxel' if is_volume else 'pixel'} belongs to any class but the background")
    return {
        "case": case_name(item),
        "intended_use": INTENDED_USE,
        "input": {
            "file": item.get("pseudonym") or source.name,
            "bytes": source.stat().st_size if source.is_file() else None,
            "sha256": meta.get("sha256"),
            **series,
        },
        "mask": {
            "file": Path(item["mask_file"]).name if "mask_file" in item else None,
            "sha256": meta.get("mask_sha256"),
        },
        **({"cleaned": meta["cleaned"]} if "cleaned" in meta else {}),
        **_files_beside(item, result),
        **made_with,
        "inference": {**made_with["inference"], **made_by},
        "geometry": geometry,
        "class_names": list(class_names),
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


def record_of(item: Mapping[str, Any]) -> Path | None:
    """Where the record of a case goes; None for a case whose mask goes nowhere."""
    return record_file(item["mask_file"]) if "mask_file" in item else None


@contextmanager
def record_aside(item: Mapping[str, Any]) -> Iterator[None]:
    """Context in which a case has no record, because its files change.

    Where it fails and the mask is still the one that was recorded, its record stands again, so that nobody finds a mask
    of which nothing says what made it.
    """
    path = record_of(item)
    if path is None:
        yield
        return
    before = read_record(path)
    path.unlink(missing_ok=True)
    try:
        yield
    except Exception:
        mask = path.with_name(before["mask"]["file"]) if before else path
        if before and mask.is_file() and file_sha256(mask) == before["mask"]["sha256"]:
            write_record(path, before)
        raise


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all."""
    with atomic_write(path, "w") as file:
        json.dump(record, file, indent=2, default=str)
        file.write("\n")


def case_name(item: Mapping[str, Any]) -> str:
    """What a case is called; its image where it has no name."""
    return str(item.get("case") or item.get("image"))


def _steps(chain: Any) -> list[str]:
    """Names of the transforms of a chain, in order."""
    transforms = chain.flatten().transforms if isinstance(chain, Compose) else [chain]
    return [getattr(each, "__name__", type(each).__name__) for each in transforms if each is not None]


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


def _sizes(mask: torch.Tensor, affine: np.ndarray) -> dict[str, dict[str, float]]:
    """Of every label but 0 its voxels and millilitres, in an image its pixels and their share of it in per cent."""
    counts = label_counts(mask.cpu().numpy())
    if mask.ndim == 4:
        ml = abs(np.linalg.det(affine[:3, :3])) / 1000
        return {str(label): {"voxels": n, "ml": round(float(n * ml), 3)} for label, n in counts.items()}
    return {str(label): {"pixels": n, "percent": round(100 * n / mask.numel(), 3)} for label, n in counts.items()}
