"""What may be done to a finished mask before it is written: fill its holes, drop its specks, keep its largest parts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import FillHoles, MapTransform
from scipy import ndimage

from medseg3d.errors import UsageError, UserError
from medseg3d.knobs import as_flag


class CleanMaskd(MapTransform):
    """Label maps (1, *spatial) uint8 on the original grid, without holes, specks and parts apart, where asked for.

    In this order: holes are filled, so that a component's size counts them; components smaller than the least size are
    removed; of the others the largest are kept. A component is connected foreground of any class, corners included
    (8 neighbours in 2-D images, 26 in volumes): a tumour stays with its pancreas. Of components of equal size, the
    first in array order counts as the larger.

    Holes are MONAI's `FillHoles`, but only background is filled: one class that lies within another stays. MONAI's
    `KeepLargestConnectedComponent` and `RemoveSmallObjects` do the rest for one class; they need scikit-image, which
    nothing else here does, so the components are SciPy's, labelled once for both.

    With nothing asked for the item passes as it is. Otherwise `meta["cleaned"]` of the mask says what was requested,
    how many voxels or pixels were filled and removed, and how many components there were and are.

    Args:
        keys: the masks, as `InvertToOriginald` leaves them; a map of probabilities next to them stays as it is.
        largest_component: how many of the largest components are kept; true for one, false or 0 for all.
        fill_holes: whether to fill what a class encloses, in a volume on all sides.
        min_volume_ml: least size of a component of a volume that stays, millilitres by the determinant of the affine.
        min_area_px: least size of a component of an image that stays, pixels.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        UserError: BAD_VALUE for what is not a number of components, no flag or no size.
        ValueError: a volume without an affine where a size in ml is requested.

    Example:
        >>> mask = torch.tensor([[[1, 1, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0]]], dtype=torch.uint8)
        >>> CleanMaskd("pred", largest_component=True, fill_holes=True)({"pred": mask})["pred"].tolist()
        [[[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]]
    """

    def __init__(
        self,
        keys: KeysCollection,
        largest_component: bool | int | str = False,
        fill_holes: bool | str = False,
        min_volume_ml: float = 0.0,
        min_area_px: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.kept = _number_kept(largest_component)
        self.fill_holes = as_flag(fill_holes, "fill_holes")
        self.min_volume_ml = _size(min_volume_ml, "min_volume_ml")
        self.min_area_px = _size(min_area_px, "min_area_px")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its masks cleaned."""
        item = dict(data)
        if self.is_asked:
            for key in self.key_iterator(item):
                item[key] = self._cleaned(item[key])
        return item

    @property
    def is_asked(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.kept or self.fill_holes or self.min_volume_ml or self.min_area_px)

    def _cleaned(self, mask: torch.Tensor) -> torch.Tensor:
        plain = mask.as_tensor() if isinstance(mask, MetaTensor) else mask
        labels = plain.cpu().numpy()[0].copy(order="K")
        least = self._least_size(mask, labels.ndim)
        filled = removed = before = after = 0
        # what lies outside of this box is background, so that neither holes nor components reach there
        for box in ndimage.find_objects((labels > 0).view(np.uint8)):  # one, or none where there is no foreground
            part = labels[box]
            original = part.copy()
            if self.fill_holes:
                _fill(part)
                filled = int(np.count_nonzero(part != original))
            before, after = _keep(part, least, self.kept)
            removed = int(np.count_nonzero((part == 0) & (original > 0)))
        result = torch.from_numpy(labels)[None].to(mask.device)
        if not isinstance(mask, MetaTensor):
            return result
        cleaned = {
            "largest_component": self.kept,
            "fill_holes": self.fill_holes,
            **({"min_volume_ml": self.min_volume_ml} if labels.ndim == 3 else {"min_area_px": self.min_area_px}),
            "filled": filled,
            "removed": removed,
            "components_found": before,
            "components_kept": after,
        }
        meta = {name: value for name, value in mask.meta.items() if name != "affine"}
        return MetaTensor(result, affine=mask.affine, meta={**meta, "cleaned": cleaned})

    def _least_size(self, mask: torch.Tensor, axes: int) -> float:
        """Voxels or pixels."""
        if axes == 2:
            return self.min_area_px
        if not self.min_volume_ml:
            return 0
        if not isinstance(mask, MetaTensor):
            raise ValueError("min_volume_ml needs a MetaTensor that knows its affine, found a plain tensor")
        voxel_ml = abs(np.linalg.det(np.asarray(mask.affine, np.float64)[:3, :3])) / 1000
        return self.min_volume_ml / voxel_ml


def _number_kept(value: bool | int | str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    try:
        return int(as_flag(value, "largest_component"))
    except UserError as error:
        raise UsageError(
            "BAD_VALUE", "--largest_component", error.found, "true, false or a number", "--largest_component 1"
        ) from error


def _size(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise UsageError("BAD_VALUE", f"--{name}", repr(value), "a size of 0 or more", "0 turns it off")
    return value


def _fill(part: np.ndarray) -> None:
    holes = part == 0
    for label in np.unique(part[part > 0]):
        whole = FillHoles(applied_labels=int(label))(torch.from_numpy(part[None].copy()))
        part[holes & (np.asarray(whole)[0] == label)] = label


def _keep(part: np.ndarray, least: float, number: int) -> tuple[int, int]:
    """Set all but the components wanted to 0; how many there were and are."""
    components, found = ndimage.label(part > 0, ndimage.generate_binary_structure(part.ndim, part.ndim))
    sizes = np.bincount(components.ravel(), minlength=found + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    wanted = order[sizes[order] >= least - 1e-6]
    wanted = wanted[:number] if number else wanted
    stays = np.zeros(found + 1, bool)
    stays[wanted + 1] = True
    part[~stays[components]] = 0
    return found, len(wanted)
