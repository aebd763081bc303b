"""Logits turned into labels, on the network's grid or, exactly, on that of the original image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medseg3d.errors import UserError
from medseg3d.transforms.axis_maps import axis_maps, interpolate, slabs

# resampling rounds the shape, so original voxels lie up to half a voxel beyond the network's grid
_REACH = 0.5 + 1e-3
# the root of what float32 holds: beyond, differences and weighted sums are on their way to overflow
_LARGEST_LOGIT = 2.0**64


class LogitsToLabelsd(MapTransform):
    """Logits (C, *spatial) turned into labels (1, *spatial) uint8 on the same grid, as `InvertToOriginald` decides.

    One channel is a sigmoid's logit, foreground where it is above 0; of several the largest, of equals the first. For
    validations on the grid of the network.

    Args:
        keys: the logits.
        image_key: the image, whose file an error names.
        error_key: where to put a `UserError`, together with labels of background, instead of raising it: for a
            validation that must not end a training. None to raise.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        UserError: `NON_FINITE`: a logit is NaN, infinite or about to overflow (2 ** 64).

    Example:
        >>> LogitsToLabelsd("pred")({"pred": torch.tensor([[-1.0, 0.0, 0.1]])})["pred"].tolist()
        [[0, 0, 1]]
        >>> LogitsToLabelsd("pred")({"pred": torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.1]])})["pred"].tolist()
        [[0, 0, 1]]
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        error_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.error_key = error_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with labels in place of logits."""
        item = dict(data)
        for key in self.key_iterator(item):
            logits = item[key]
            labels = logits > 0 if len(logits) == 1 else logits.argmax(0, keepdim=True)
            try:
                _refuse_non_finite(logits, item, self.image_key)
            except UserError as error:
                if self.error_key is None:
                    raise
                item[self.error_key] = error
                labels = torch.zeros_like(labels)
            item[key] = labels.to(torch.uint8)
        return item


class InvertToOriginald(MapTransform):
    """Logits (C, x, y, z) on the network's grid turned into labels (1, X, Y, Z) on the grid of the original image.

    Images, (C, h, w) to (1, H, W), go the same way.

    What MONAI does with softmax, Invertd(nearest_interp=False) and argmax, in a fraction of the time and memory: the
    probability of each class is carried back by linear interpolation along one axis after the other, slab by slab,
    and only the running maximum is kept. It needs no record of the transforms, only the two affines, and so works
    after any chain that keeps the axes of the image (ResampleVolumed, crops, pads, flips; of MONAI Orientationd, and
    Spacingd with diagonal=False).

    Where it differs from Invertd: original voxels more than half a voxel outside the network's grid (cropped away)
    are background, whereas Invertd fades the border out over one whole voxel; and where the image was padded, the
    outermost original voxels get what the network said there, whereas Invertd drops the padding first.

    Args:
        keys: the logits, tensor or MetaTensor of any floating type; one channel is a sigmoid's logit.
        image_key: the preprocessed image: its `affine` is that of the logits, its meta names `original_affine` and
            `spatial_shape`.
        prob_key: where to put the probability of foreground (1, X, Y, Z) float32, the sum over classes above 0; None
            for not at all. With several keys, only the first one's.
        threshold: two classes, or one logit: foreground is where its probability is at least this. At 0.5 the more
            probable class is taken, of equals the background.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        UserError: `NON_FINITE`: a logit is NaN, infinite or about to overflow (2 ** 64), and no mask comes of it.
        ValueError: the two grids do not fit together; more than two classes and a threshold other than 0.5.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        prob_key: str | None = None,
        threshold: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be a probability from 0 to 1, found {threshold}")
        self.image_key = image_key
        self.prob_key = prob_key
        self.threshold = threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with labels in place of logits."""
        item = dict(data)
        image = item[self.image_key]
        original_affine, shape = _original_grid(image, self.image_key)
        for key in self.key_iterator(item):
            logits = item[key]
            if tuple(logits.shape[1:]) != tuple(image.shape[1:]):
                raise ValueError(
                    f"{key} must have the spatial shape {tuple(image.shape[1:])} of {self.image_key}, "
                    f"found {tuple(logits.shape[1:])}"
                )
            _refuse_non_finite(logits, item, self.image_key)
            with_probability = self.prob_key is not None and key == self.keys[0]
            labels, probability = restore_labels(
                logits,
                image.affine.cpu().numpy(),
                original_affine,
                shape,
                with_probability=with_probability,
                threshold=self.threshold,
            )
            item[key] = _on_original_grid(labels, image, original_affine)
            if probability is not None:
                item[self.prob_key] = _on_original_grid(probability, image, original_affine)
        return item


def restore_labels(
    logits: torch.Tensor,
    affine: np.ndarray,
    original_affine: np.ndarray,
    original_shape: Sequence[int],
    with_probability: bool = False,
    threshold: float = 0.5,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Labels (X, Y, Z) uint8 on the original grid and, if requested, the probability of foreground there.

    Args:
        logits: (C, x, y, z), any floating type and device; C = 1 is a sigmoid's logit. For images (C, h, w).
        affine: (4, 4), voxel to world of the logits.
        original_affine: (4, 4), voxel to world of the original grid.
        original_shape: voxels of the original grid along its three axes, or (H, W); the result has that shape.
        with_probability: whether to return the probability, (X, Y, Z) float32, summed over the classes above 0.
        threshold: from which probability on two classes are foreground; 0.5 takes the more probable, as argmax.

    Raises:
        ValueError: wrong number of axes, axes of one grid that are oblique to those of the other, or a threshold for
            more than two classes.

    Example:
        Two classes on a grid twice as coarse; the step lies halfway between the second and the third voxel.

        >>> logits = torch.zeros(2, 4, 2, 2)
        >>> logits[1, :2], logits[1, 2:] = -9, 9
        >>> labels, _ = restore_labels(logits, np.diag([2, 1, 1, 1]), np.eye(4), (7, 2, 2))
        >>> labels[:, 0, 0].tolist()
        [0, 0, 0, 0, 1, 1, 1]
    """
    if isinstance(logits, MetaTensor):
        logits = logits.as_tensor()
    if logits.ndim == 3 and len(original_shape) == 2:
        # a 2-D image is a volume of one slice
        flat, foreground = restore_labels(
            logits[..., None], affine, original_affine, (*original_shape, 1), with_probability, threshold
        )
        return flat[..., 0], None if foreground is None else foreground[..., 0]
    if logits.ndim != 4 or len(original_shape) != 3:
        raise ValueError(
            f"logits must be (C, x, y, z) for 3 original axes or (C, h, w) for 2, found shape {tuple(logits.shape)} "
            f"and {len(original_shape)}"
        )
    if len(logits) > 2 and threshold != 0.5:
        raise ValueError(
            f"threshold must be 0.5 for {len(logits)} classes, found {threshold}: it cannot choose a class"
        )
    order, axes = axis_maps(logits.shape[1:], affine, original_shape, original_affine, _REACH)
    # the original's order reversed: z first, x last, as NIfTI lies in memory
    logits = logits.detach().permute(0, *(1 + axis for axis in reversed(order)))
    labels = torch.zeros(tuple(reversed(original_shape)), dtype=torch.uint8)
    probability = torch.zeros(labels.shape) if with_probability else None
    for source, target, maps in slabs(logits.shape[1:], axes[::-1]):
        classes = _class_probabilities(logits[:, source].float())
        carried = (interpolate(channel, maps) for channel in classes)
        largest, foreground = _largest(carried, threshold if len(classes) == 1 else None, with_sum=with_probability)
        labels[target] = largest
        if probability is not None and foreground is not None:
            probability[target] = foreground
    return labels.permute(2, 1, 0), None if probability is None else probability.permute(2, 1, 0)


def _refuse_non_finite(logits: torch.Tensor, item: Mapping[Hashable, Any], image_key: str) -> None:
    smallest, largest = logits.aminmax()  # one pass without a copy; NaN where there is one
    if smallest > -_LARGEST_LOGIT and largest < _LARGEST_LOGIT:
        return
    strange = logits.numel() - int((logits.abs() < _LARGEST_LOGIT).sum())
    image = getattr(item.get(image_key), "meta", {}).get("filename_or_obj") or item.get("case", "an image")
    found = f"{strange} of {logits.numel()} logits that are NaN, infinite or overflowing"
    remedy = "use --precision float32; if that does not help, the weights are bad: use an earlier model.pt"
    raise UserError("NON_FINITE", str(image), found, "finite logits", remedy)


def _original_grid(image: Any, key: str) -> tuple[np.ndarray, tuple[int, ...]]:
    if not isinstance(image, MetaTensor) or not {"original_affine", "spatial_shape"} <= image.meta.keys():
        raise ValueError(
            f"{key} must be a MetaTensor that remembers original_affine and spatial_shape, found {type(image).__name__}"
        )
    shape = tuple(int(size) for size in image.meta["spatial_shape"])
    return np.asarray(image.meta["original_affine"], np.float64), shape


def _on_original_grid(volume: torch.Tensor, image: MetaTensor, original_affine: np.ndarray) -> MetaTensor:
    meta = {name: value for name, value in image.meta.items() if name != "affine"}
    return MetaTensor(volume[None], affine=torch.from_numpy(original_affine), meta=meta)


def _class_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """(C, ...) probabilities, for one or two classes (1, ...) that of foreground alone: the other is what is left."""
    if len(logits) > 2:
        return logits.softmax(0)
    return torch.sigmoid(logits[-1:] if len(logits) == 1 else logits[1:] - logits[:1])


def _largest(carried: Any, threshold: float | None, with_sum: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """uint8 index of the largest of the carried classes (the first of equals) and the sum of those above 0.

    With a threshold, the only one carried is the probability of foreground.
    """
    best = next(carried)
    if threshold is not None:
        # the argmax of two classes, of equals the first: background
        reached = best > 0.5 if threshold == 0.5 else best >= threshold
        return reached.to(torch.uint8), best
    labels = torch.zeros_like(best, dtype=torch.uint8)
    foreground = torch.zeros_like(best) if with_sum else None
    for index, value in enumerate(carried, start=1):
        labels = torch.where(value > best, index, labels)
        torch.maximum(best, value, out=best)
        if foreground is not None:
            foreground += value
    return labels, foreground
