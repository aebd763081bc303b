"""MONAI dictionary transforms for what MONAI lacks: a checked load, an exact way back, and masks that fit their image.

They stand at the two ends of a chain of MONAI's own:

    LoadNiftid, Orientationd, Spacingd(dtype=torch.float32), ... network ..., RestoreLabelsd, SaveMaskd
    LoadNiftid, Orientationd, FitSlicesd, ... 2-D network ..., RestoreLabelsd, SaveMaskd
    LoadPictured, ResizePictured, ... network ..., RestoreLabelsd, SavePictureMaskd
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.networks.layers.convutils import gaussian_1d
from monai.transforms import MapTransform, SpatialPadd
from monai.transforms.utils import scale_affine

from medseg3d.data.nifti import GRID_TOLERANCE, MAX_VOXELS, NiftiHeader, check_labels, check_pair, read_nifti
from medseg3d.data.outputs import write_mask, write_probabilities
from medseg3d.data.overlays import write_overlay
from medseg3d.data.pictures import read_picture_mask, read_with_remarks, write_grey, write_picture_mask
from medseg3d.faults import Fault, UsageFault

SMALLEST_FILL = 0.25
"""Part of the patch, along each axis, that a volume has to fill; MSD pancreas scans of 37 slices fill 0.48."""

_SLAB_VOXELS = 1 << 21  # 8 MiB of float32 at a time
_REACH = 0.5 + 1e-3  # Spacing rounds its shape, so original voxels lie up to half a voxel beyond the model's grid
_OFF_AXIS = 0.05  # voxels
_LARGEST_LOGIT = (
    2.0**64
)  # the root of what float32 holds: beyond, differences and weighted sums are on their way to overflow

logger = logging.getLogger("medseg3d")


class LoadNiftid(MapTransform):
    """Image and label as `MetaTensor` (1, X, Y, Z), read through `read_nifti` and refused when anything is wrong.

    The image of an item with the key `series` is DICOM and read through `read_series`; `series` becomes what was read.

    The image is float32, the label uint8. Both carry `affine` (voxel to RAS mm) and in `meta`: `original_affine`,
    `spatial_shape`, `filename_or_obj`, `space` ("RAS"), `geometry` (`NiftiHeader.geometry`, what a mask on the same
    grid needs), `sha256` of the file, and `warnings` (one per line, "" for none). When both keys are loaded, the
    label has to lie on the grid of its image.

    Args:
        keys: what to load: `image_key`, `label_key` or both; other keys are loaded as images.
        image_key: key of the image.
        label_key: key of the label.
        labels: values a label may hold; None allows every integer from 0 to 255.
        check_hu: whether images that do not look like Hounsfield units get a warning.
        max_voxels: larger volumes are refused.
        grid_tolerance: voxels that a corner of the label may lie from that of its image.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        Fault: as `read_nifti`; PAIR_GEOMETRY, LABEL_SET. MONAI's Compose wraps it: see `medseg3d.faults.find_fault`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        label_key: str = "label",
        labels: Sequence[int] | None = None,
        check_hu: bool = True,
        max_voxels: int = MAX_VOXELS,
        grid_tolerance: float = GRID_TOLERANCE,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.label_key = label_key
        self.labels = labels
        self.check_hu = check_hu
        self.max_voxels = max_voxels
        self.grid_tolerance = grid_tolerance

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the volumes in place of their paths."""
        item = dict(data)
        headers: dict[Hashable, NiftiHeader] = {}
        for key in self.key_iterator(item):
            is_label = key == self.label_key
            if key == self.image_key and "series" in item:
                from medseg3d.data.dicom import read_series  # of the extra dicom

                array, header, item["series"] = read_series(item[key], item["series"], self.max_voxels, self.check_hu)
            else:
                array, header = read_nifti(item[key], self.max_voxels, check_hu=self.check_hu and not is_label)
            if is_label:
                array = check_labels(array, self.labels, item[key], header)
            item[key] = _as_meta_tensor(array, header, torch.uint8 if is_label else torch.float32)
            headers[key] = header
        if self.image_key in headers and self.label_key in headers:
            check_pair(headers[self.image_key], headers[self.label_key], self.grid_tolerance)
            # to the last bit, or the two could be resampled to different shapes
            item[self.label_key].affine = item[self.image_key].affine.clone()
        return item


class LoadPictured(MapTransform):
    """Picture and mask as `MetaTensor` (C, H, W): RGB float32 in [0, 1], and the mask uint8 0 or 1 with one channel.

    Read through `read_picture` and `read_picture_mask`, row by row as the file stores them. Both carry `affine` (the
    identity: row, column) and in `meta`: `original_affine`, `spatial_shape` (H, W), `filename_or_obj`, `sha256` of the
    file, and `warnings` of a picture (one per line, "" for none).

    Args:
        keys: what to load: the picture, `label_key` or both.
        label_key: key of the mask.
        upright: whether to turn both as their EXIF orientation asks.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        Fault: as `read_picture` and `read_picture_mask`; PAIR_GEOMETRY. MONAI's Compose wraps it: see
            `medseg3d.faults.find_fault`.
    """

    def __init__(
        self, keys: KeysCollection, label_key: str = "label", upright: bool = False, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key
        self.upright = upright

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the pictures in place of their paths."""
        item = dict(data)
        first: tuple[Any, tuple[int, ...]] | None = None
        for key in self.key_iterator(item):
            path = item[key]
            array: np.ndarray
            remarks: tuple[str, ...] = ()
            if key == self.label_key:
                array = read_picture_mask(path, self.upright).astype(np.uint8)[None]
            else:
                pixels, remarks = read_with_remarks(path, self.upright)
                if self.label_key in self.keys:  # a training; of a prediction the record says it
                    for remark in remarks:
                        logger.warning("%s: %s", path, remark)
                array = np.moveaxis(pixels, -1, 0).astype(np.float32, order="C")
                array /= 255
            shape = array.shape[1:]
            if first is None:
                first = path, shape
            elif first[1] != shape:
                raise Fault(
                    "PAIR_GEOMETRY",
                    path,
                    f"{shape[0]} rows of {shape[1]} pixels",
                    f"{first[1][0]} rows of {first[1][1]} pixels, as in {first[0]}",
                    "a mask must be drawn on the grid of its picture",
                )
            meta = {
                "original_affine": torch.eye(4, dtype=torch.float64),
                "spatial_shape": torch.tensor(shape),
                "filename_or_obj": str(path),
                "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
                "warnings": "\n".join(remarks),
            }
            item[key] = MetaTensor(torch.from_numpy(array), affine=torch.eye(4, dtype=torch.float64), meta=meta)
        return item


class ResizePictured(MapTransform):
    """Pictures (C, H, W) stretched to one size: pictures as `resize_picture` does it, masks as `resize_mask`.

    Args:
        keys: pictures and masks.
        spatial_size: rows and columns that come out.
        label_key: key of the mask.

    Example:
        >>> ResizePictured("image", (32, 64))({"image": MetaTensor(torch.zeros(3, 40, 60))})["image"].shape
        torch.Size([3, 32, 64])
    """

    def __init__(self, keys: KeysCollection, spatial_size: Sequence[int], label_key: str = "label") -> None:
        super().__init__(keys)
        self.spatial_size = spatial_size
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the pictures resized."""
        item = dict(data)
        for key in self.keys:
            resize = resize_mask if key == self.label_key else resize_picture
            item[key] = resize(item[key], self.spatial_size)
        return item


class FitPictured(MapTransform):
    """Pictures (C, H, W) resized to fit into a frame, their proportion kept: one side is the frame's, no side larger.

    Pictures as `resize_picture` does it, masks as `resize_mask`.

    Args:
        keys: pictures and masks.
        spatial_size: rows and columns of the frame.
        label_key: key of the mask.

    Example:
        >>> FitPictured("image", (512, 1024))({"image": MetaTensor(torch.zeros(3, 40, 60))})["image"].shape
        torch.Size([3, 512, 768])
    """

    def __init__(self, keys: KeysCollection, spatial_size: Sequence[int], label_key: str = "label") -> None:
        super().__init__(keys)
        self.spatial_size = spatial_size
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the pictures resized."""
        item = dict(data)
        for key in self.keys:
            shape = item[key].shape[1:]
            scale = min(wanted / size for wanted, size in zip(self.spatial_size, shape, strict=True))
            fitted = [max(1, round(scale * size)) for size in shape]
            resize = resize_mask if key == self.label_key else resize_picture
            item[key] = resize(item[key], fitted)
        return item


class FitSlicesd(MapTransform):
    """Volumes (1, H, W, D) whose slices (H, W) are resized as `FitPictured` resizes pictures, at a pixel size to match.

    The longer side of a slice becomes `picture_size` pixels, its proportion in mm is kept, each slice is resized as
    `resize_picture` does it, and the axis of slices stays as it is. A network trained on whole pictures has met the
    fields of view of those pictures: a slice that shows more or less than `field_of_view_mm` gets the pixel size of the
    nearest bound instead, and so more or fewer pixels than `picture_size`.

    Args:
        keys: volumes as `MetaTensor`, whose affine gives the mm.
        picture_size: pixels of the longer side.
        field_of_view_mm: shortest and longest of the longer side that are resized to it.

    Raises:
        Fault: BAD_VALUE for bounds that are none.

    Example:
        512 pixels of 0.8 mm are within the bounds, 250 of 0.8 mm are not: they are taken for a part of 320 mm.

        >>> fit = FitSlicesd("image", 192, (320, 500))
        >>> image = MetaTensor(torch.zeros(1, 512, 512, 3), affine=torch.diag(torch.tensor([0.8, 0.8, 5, 1])))
        >>> fit({"image": image})["image"].shape, fit({"image": image[:, :250, :200]})["image"].shape
        (torch.Size([1, 192, 192, 3]), torch.Size([1, 120, 96, 3]))
    """

    def __init__(self, keys: KeysCollection, picture_size: int, field_of_view_mm: Sequence[float]) -> None:
        super().__init__(keys)
        least, most = field_of_view_mm
        if not 0 < least <= most:
            raise UsageFault(
                "BAD_VALUE", "--field_of_view_mm", str(list(field_of_view_mm)), "[shortest, longest] in mm"
            )
        self.picture_size = picture_size
        self.least, self.most = least, most

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the slices resized."""
        item = dict(data)
        for key in self.keys:
            volume = item[key]
            extent = np.linalg.norm(volume.affine.cpu().numpy()[:3, :2], axis=0) * volume.shape[1:3]
            pixel_mm = min(max(extent.max(), self.least), self.most) / self.picture_size
            fitted = [max(1, round(float(size))) for size in extent / pixel_mm]
            # the slices as the channels of one picture; its affine is the volume's, whose first two axes change
            meta = {name: value for name, value in volume.meta.items() if name != "affine"}
            slices = MetaTensor(volume.as_tensor()[0].permute(2, 0, 1), affine=volume.affine, meta=dict(meta))
            picture = resize_picture(slices, fitted)
            item[key] = MetaTensor(picture.as_tensor().permute(1, 2, 0)[None], affine=picture.affine, meta=meta)
        return item


class SlicesToChannelsd(MapTransform):
    """A slab of slices (1, H, W, D) as one 2-D picture: the image (D, H, W), the label its middle slice (1, H, W).

    Args:
        keys: the slabs, image and label; D is odd.
        label_key: key of the label.

    Raises:
        ValueError: more than one channel, or an even number of slices, which has no middle.
    """

    def __init__(self, keys: KeysCollection, label_key: str = "label") -> None:
        super().__init__(keys)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with plain tensors in place of the slabs."""
        item = dict(data)
        for key in self.keys:
            slab = torch.as_tensor(item[key]).as_subclass(torch.Tensor)
            if slab.ndim != 4 or slab.shape[0] != 1 or slab.shape[-1] % 2 == 0:
                raise ValueError(f"{key} must be (1, H, W, D) with an odd D, found shape {tuple(slab.shape)}")
            middle = slab.shape[-1] // 2
            item[key] = slab[..., middle] if key == self.label_key else slab[0].permute(2, 0, 1).contiguous()
        return item


class PadToPatchd(MapTransform):
    """Volumes at least as large as the patch, padded with zeros (air, background) evenly at both ends.

    MONAI's `SpatialPadd` behind a limit: a volume that fills less than a quarter of the patch would teach the network
    air, and is refused.

    Args:
        keys: channel-first volumes of one shape.
        roi_size: voxels of the patch.

    Raises:
        Fault: `PATCH_SIZE`, naming the file of the first key.
    """

    def __init__(self, keys: KeysCollection, roi_size: Sequence[int]) -> None:
        super().__init__(keys)
        self.roi_size = roi_size
        self.pad = SpatialPadd(keys, spatial_size=roi_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Pad the volumes of one case."""
        first = data[self.keys[0]]
        check_patch_fill(first.shape[1:], self.roi_size, first.meta.get("filename_or_obj", "a volume"))
        return self.pad(data)


class AsLabelsd(MapTransform):
    """Logits (C, *spatial) turned into labels (1, *spatial) uint8 on the same grid, as `RestoreLabelsd` decides.

    One channel is a sigmoid's logit, foreground where it is above 0; of several the largest, of equals the first. For
    validations on the grid of the network.

    Args:
        keys: the logits.
        image_key: the image, whose file a fault names.
        fault_key: where to put a `Fault`, beside labels of background, instead of raising it: for a validation that
            must not end a training. None to raise.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        Fault: `NON_FINITE`: a logit is NaN, infinite or about to overflow (2 ** 64).

    Example:
        >>> AsLabelsd("pred")({"pred": torch.tensor([[-1.0, 0.0, 0.1]])})["pred"].tolist()
        [[0, 0, 1]]
        >>> AsLabelsd("pred")({"pred": torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.1]])})["pred"].tolist()
        [[0, 0, 1]]
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        fault_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.fault_key = fault_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with labels in place of logits."""
        item = dict(data)
        for key in self.key_iterator(item):
            logits = item[key]
            labels = logits > 0 if len(logits) == 1 else logits.argmax(0, keepdim=True)
            try:
                _refuse_non_finite(logits, item, self.image_key)
            except Fault as fault:
                if self.fault_key is None:
                    raise
                item[self.fault_key] = fault
                labels = torch.zeros_like(labels)
            item[key] = labels.to(torch.uint8)
        return item


class RestoreLabelsd(MapTransform):
    """Logits (C, x, y, z) on the network's grid turned into labels (1, X, Y, Z) on the grid of the original image.

    Pictures, (C, h, w) to (1, H, W), go the same way.

    What MONAI does with softmax, Invertd(nearest_interp=False) and argmax, in a fraction of the time and memory: the
    probability of each class is carried back by linear interpolation along one axis after the other, slab by slab,
    and only the running maximum is kept. It needs no record of the transforms, only the two affines, and so works
    after any chain that keeps the axes of the image (Orientationd, Spacingd with diagonal=False, crops, pads, flips).

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
        Fault: `NON_FINITE`: a logit is NaN, infinite or about to overflow (2 ** 64), and no mask comes of it.
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


def _refuse_non_finite(logits: torch.Tensor, item: Mapping[Hashable, Any], image_key: str) -> None:
    smallest, largest = logits.aminmax()  # one pass without a copy; NaN where there is one
    if smallest > -_LARGEST_LOGIT and largest < _LARGEST_LOGIT:
        return
    strange = logits.numel() - int((logits.abs() < _LARGEST_LOGIT).sum())
    raise Fault(
        "NON_FINITE",
        str(getattr(item.get(image_key), "meta", {}).get("filename_or_obj") or item.get("case", "an image")),
        f"{strange} of {logits.numel()} logits that are NaN, infinite or overflowing",
        "numbers that a mask can be made of",
        "--precision float32; where that gives the same, the weights are at fault: take an earlier model.pt",
    )


class SaveMaskd(MapTransform):
    """Writes a label map (1, X, Y, Z) as a uint8 NIfTI on the grid of its source, whole or not at all.

    Shape, sform, qform, their codes and the units are those of the source file; the file is read back and compared
    before it gets its name. `meta["mask_sha256"]` of the label map is set.

    Args:
        keys: the label map, as `RestoreLabelsd` leaves it.
        path_key: the item's key for the path to write to.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        Fault: NO_SPACE, NOT_WRITABLE.
    """

    def __init__(self, keys: KeysCollection, path_key: str = "mask_file", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.path_key = path_key
        if len(self.keys) != 1:
            raise ValueError(f"keys must name one label map for one {path_key}, found {self.keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, its label map written."""
        item = dict(data)
        for key in self.key_iterator(item):
            labels = item[key]
            if not isinstance(labels, MetaTensor):
                raise ValueError(f"{key} must be a MetaTensor that knows its affine, found {type(labels).__name__}")
            labels.meta["mask_sha256"] = write_mask(
                item[self.path_key],
                labels.cpu().numpy()[0],
                geometry=labels.meta.get("geometry"),
                affine=labels.affine.cpu().numpy(),
            )
        return item


class SavePictureMaskd(MapTransform):
    """Writes a mask (1, H, W) of 0 and 1 as a PNG of 0 and 255, whole or not at all.

    `meta["mask_sha256"]` of the mask is set.

    Args:
        keys: the mask, as `RestoreLabelsd` leaves it.
        path_key: the item's key for the path to write to.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        ValueError: more than one class of foreground, which a picture of black and white cannot hold.
        Fault: NO_SPACE, NOT_WRITABLE.
    """

    def __init__(self, keys: KeysCollection, path_key: str = "mask_file", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.path_key = path_key
        if len(self.keys) != 1:
            raise ValueError(f"keys must name one mask for one {path_key}, found {self.keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, its mask written."""
        item = dict(data)
        for key in self.key_iterator(item):
            mask = item[key]
            path = Path(item[self.path_key])
            write_picture_mask(path, np.asarray(mask.cpu())[0])
            if isinstance(mask, MetaTensor):
                mask.meta["mask_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return item


class SaveOverlayd(MapTransform):
    """Writes the source picture with its mask (1, H, W) drawn on it (`draw_overlay`), whole or not at all.

    The picture is read once more, because that of the item has the network's size. `meta["overlay_sha256"]` of the
    mask is set. An item without `path_key` wants no overlay.

    Args:
        keys: the mask, as `RestoreLabelsd` leaves it; every label above 0 is drawn alike.
        path_key: the item's key for the path to write to.
        upright: as `LoadPictured` had it.

    Raises:
        Fault: NO_SPACE, NOT_WRITABLE.
    """

    def __init__(self, keys: KeysCollection, path_key: str = "overlay_file", upright: bool = False) -> None:
        super().__init__(keys)
        self.path_key = path_key
        self.upright = upright
        if len(self.keys) != 1:
            raise ValueError(f"keys must name one mask for one {path_key}, found {self.keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, its overlay written."""
        if self.path_key in data:
            mask, path = data[self.keys[0]], Path(data[self.path_key])
            write_overlay(
                path, read_with_remarks(mask.meta["filename_or_obj"], self.upright)[0], mask.cpu().numpy()[0] > 0
            )
            mask.meta["overlay_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return dict(data)


class SaveProbabilityd(MapTransform):
    """Writes a map of foreground probability, whole or not at all: (1, X, Y, Z) as NIfTI, (1, H, W) as 16-bit PNG.

    The NIfTI is float32 on the grid of its source, as `SaveMaskd` has it. `meta["prob_sha256"]` of the map is set.

    Args:
        keys: the map, as `RestoreLabelsd` leaves it under `prob_key`.
        path_key: the item's key for the path to write to.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        Fault: NO_SPACE, NOT_WRITABLE.
    """

    def __init__(self, keys: KeysCollection, path_key: str = "prob_file", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.path_key = path_key
        if len(self.keys) != 1:
            raise ValueError(f"keys must name one map for one {path_key}, found {self.keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, its map written."""
        item = dict(data)
        for key in self.key_iterator(item):
            prob = item[key]
            path = Path(item[self.path_key])
            array = prob.cpu().numpy()[0].clip(0, 1)  # a sum of classes may exceed 1 by a rounding
            if array.ndim == 2:
                write_grey(path, array)
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                digest = write_probabilities(path, array, prob.meta.get("geometry"), prob.affine.cpu().numpy())
            if isinstance(prob, MetaTensor):
                prob.meta["prob_sha256"] = digest
        return item


def check_patch_fill(shape: Sequence[int], roi_size: Sequence[int], path: str | Path) -> None:
    """Raise `Fault` `PATCH_SIZE` if a volume fills less than a quarter of the patch along an axis.

    Args:
        shape: voxels of the resampled volume along R, A, S.
        roi_size: voxels of the patch.
        path: the volume's file.

    Example:
        >>> check_patch_fill((200, 200, 46), (96, 96, 96), "ct.nii.gz")
    """
    if any(size < SMALLEST_FILL * wanted for size, wanted in zip(shape, roi_size, strict=True)):
        raise Fault(
            "PATCH_SIZE",
            path,
            f"{'x'.join(map(str, shape))} voxels on the resampled grid",
            f"at least a quarter of the patch of {'x'.join(map(str, roi_size))} along each axis (the rest is padded)",
            "lower --roi_size, refine --spacing, or leave the volume out",
        )


def resize_picture(picture: MetaTensor, spatial_size: Sequence[int]) -> MetaTensor:
    """A picture (C, H, W) in another size: what MONAI's `Resize(mode="bilinear", anti_aliasing=True)` makes of it.

    Values (float32) and affine are MONAI's, to within the rounding of a sum. MONAI smooths the whole picture with a
    Gaussian, beyond its border black, and reads the smooth one at few places; here every pixel that comes out is
    summed from those it depends on, along one axis after the other, which is many times faster. What was done is not
    noted in `applied_operations`: the way back is `restore_labels`, which needs the affine alone.

    Args:
        picture: values in any range.
        spatial_size: rows and columns that come out.

    Example:
        >>> from monai.transforms import Resize
        >>> picture = MetaTensor(torch.rand(3, 40, 60))
        >>> stock = Resize((10, 90), mode="bilinear", anti_aliasing=True)(picture)
        >>> bool((resize_picture(picture, (10, 90)) - stock).abs().max() < 1e-6)
        True
    """
    channels, height, width = picture.shape
    rows, columns = (int(size) for size in spatial_size)
    index, weight = _resize_taps(height, rows)
    of_channels = (height * torch.arange(channels)[:, None, None] + index).flatten(0, 1)
    lines = picture.as_tensor().float().reshape(channels * height, width)  # no copy of what is largest
    lines = F.embedding_bag(of_channels, lines, mode="sum", per_sample_weights=weight.repeat(channels, 1))
    index, weight = _resize_taps(width, columns)
    lines = F.embedding_bag(index, lines.T.contiguous(), mode="sum", per_sample_weights=weight)
    return _resized(picture, lines.T.contiguous().view(channels, rows, columns))


def resize_mask(mask: MetaTensor, spatial_size: Sequence[int]) -> MetaTensor:
    """A mask (1, H, W) in another size: what MONAI's `Resize(mode="nearest-exact")` makes of it, float32, to the bit.

    As with `resize_picture`, what was done is noted in the affine alone.

    Args:
        mask: labels.
        spatial_size: rows and columns that come out.

    Example:
        >>> resize_mask(MetaTensor(torch.tensor([[[0, 1, 1, 0]]], dtype=torch.uint8)), (1, 2)).tolist()
        [[[1.0, 0.0]]]
    """
    size = [int(size) for size in spatial_size]
    return _resized(mask, F.interpolate(mask.as_tensor()[None], size, mode="nearest-exact")[0].float())


def _resized(picture: MetaTensor, values: torch.Tensor) -> MetaTensor:
    """`values` with the meta of the picture that they are a resized form of, and the affine that follows."""
    scaling = to_affine_nd(len(picture.affine) - 1, scale_affine(picture.shape[1:], values.shape[1:]))
    meta = {name: value for name, value in picture.meta.items() if name != "affine"}
    return MetaTensor(values, affine=picture.affine @ torch.from_numpy(scaling), meta=meta)


def restore_labels(
    logits: torch.Tensor,
    affine: np.ndarray,
    original_affine: np.ndarray,
    original_shape: Sequence[int],
    with_probability: bool = False,
    threshold: float = 0.5,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Labels (X, Y, Z) uint8 on the original grid and, if asked for, the probability of foreground there.

    Args:
        logits: (C, x, y, z), any floating type and device; C = 1 is a sigmoid's logit. For pictures (C, h, w).
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
        # a picture is a volume of one slice
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
    order, axes = _axis_maps(logits.shape[1:], affine, original_affine, original_shape)
    # the original's order reversed: z first, x last, as NIfTI lies in memory
    logits = logits.detach().permute(0, *(1 + axis for axis in reversed(order)))
    slow, middle, fast = reversed(axes)
    labels = torch.zeros(tuple(reversed(original_shape)), dtype=torch.uint8)
    probability = torch.zeros(labels.shape) if with_probability else None
    inside = (slice(middle.start, middle.stop), slice(fast.start, fast.stop))
    step = max(1, _SLAB_VOXELS // (labels.shape[1] * labels.shape[2]))
    for start in range(slow.start, slow.stop, step):
        stop = min(start + step, slow.stop)
        first, last, along_slow = slow.part(start, stop)
        classes = _class_probabilities(logits[:, first:last].float())
        carried = (_carried(channel, (along_slow, middle, fast)) for channel in classes)
        target = (slice(start, stop), *inside)
        largest, foreground = _largest(carried, threshold if len(classes) == 1 else None, with_sum=with_probability)
        labels[target] = largest
        if probability is not None and foreground is not None:
            probability[target] = foreground
    return labels.permute(2, 1, 0), None if probability is None else probability.permute(2, 1, 0)


@functools.lru_cache(maxsize=256)
def _resize_taps(size: int, new_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which pixels of an axis each new one is summed from, and with which weights; both (new_size, taps)."""
    # torch's bilinear rule: the scale in float32, the position rounded once
    scale = float(np.float32(size) / np.float32(new_size))
    position = (scale * (np.arange(new_size) + 0.5) - 0.5).astype(np.float32).clip(min=0)
    lower = np.minimum(position.astype(np.int64), size - 1)
    weight = torch.from_numpy(position - lower.astype(np.float32))[:, None]
    near = torch.from_numpy(np.stack([lower, np.minimum(lower + 1, size - 1)], axis=1))
    # MONAI's rule, which is scikit-image's
    sigma = (torch.tensor(float(size)) / new_size - 1) / 2
    kernel = gaussian_1d(sigma) if sigma > 0 else torch.ones(1)
    reach = len(kernel) // 2
    index = (near[:, :, None] + torch.arange(-reach, reach + 1)).flatten(1)
    weights = torch.cat([(1 - weight) * kernel, weight * kernel], dim=1)
    inside = (index >= 0) & (index < size)
    return index.clamp(0, size - 1), weights * inside


class _AxisMap:
    """Where the voxels start..stop of one original axis lie on the model's axis: between two neighbours, by weight."""

    def __init__(self, position: np.ndarray, size: int) -> None:
        near = np.flatnonzero((position >= -_REACH) & (position <= size - 1 + _REACH))
        self.start, self.stop = (int(near[0]), int(near[-1]) + 1) if near.size else (0, 0)
        inner = np.clip(position[self.start : self.stop], 0, size - 1)
        lower = np.floor(inner).astype(np.int64)
        self.lower = torch.from_numpy(lower)
        self.upper = torch.from_numpy(np.minimum(lower + 1, size - 1))
        self.weight = torch.from_numpy((inner - lower).astype(np.float32))

    def part(self, start: int, stop: int) -> tuple[int, int, _AxisMap]:
        """The model's voxels first..last that start..stop depend on, and the map onto those alone."""
        chosen = slice(start - self.start, stop - self.start)
        part = object.__new__(_AxisMap)
        first = int(min(self.lower[chosen].min(), self.upper[chosen].min()))
        last = int(max(self.lower[chosen].max(), self.upper[chosen].max())) + 1
        part.start, part.stop = start, stop
        part.lower, part.upper = self.lower[chosen] - first, self.upper[chosen] - first
        part.weight = self.weight[chosen]
        return first, last, part

    def carry(self, values: torch.Tensor, axis: int) -> torch.Tensor:
        """`values` linearly interpolated along `axis`."""
        shape = [1] * values.ndim
        shape[axis] = -1
        lower = values.index_select(axis, self.lower.to(values.device))
        upper = values.index_select(axis, self.upper.to(values.device))
        return lower.lerp_(upper, self.weight.to(values.device).view(shape))


def _axis_maps(
    shape: Sequence[int], affine: np.ndarray, original_affine: np.ndarray, original_shape: Sequence[int]
) -> tuple[list[int], list[_AxisMap]]:
    """The model's axis for each original axis, and the map along it."""
    matrix = np.linalg.solve(np.asarray(affine, np.float64), np.asarray(original_affine, np.float64))
    order = [int(axis) for axis in np.abs(matrix[:3, :3]).argmax(axis=0)]
    extent = np.array(original_shape) - 1
    off_axis = matrix[:3, :3].copy()
    off_axis[order, range(3)] = 0
    if sorted(order) != [0, 1, 2] or (np.abs(off_axis) @ extent).max() > _OFF_AXIS:
        raise ValueError(
            "the image and its original must have parallel axes, found an original-to-image matrix of "
            f"{matrix[:3, :3].round(4).tolist()}; use Spacingd(diagonal=False) and no rotation"
        )
    maps = []
    for axis, model_axis in enumerate(order):
        position = matrix[model_axis, axis] * np.arange(original_shape[axis]) + matrix[model_axis, 3]
        maps.append(_AxisMap(position, shape[model_axis]))
    return order, maps


def _class_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """(C, ...) probabilities, for one or two classes (1, ...) that of foreground alone: the other is what is left."""
    if len(logits) > 2:
        return logits.softmax(0)
    return torch.sigmoid(logits[-1:] if len(logits) == 1 else logits[1:] - logits[:1])


def _carried(values: torch.Tensor, maps: Sequence[_AxisMap]) -> torch.Tensor:
    # the last axis first, while the data is small: picking within a row is slow, picking rows is fast
    for axis in reversed(range(len(maps))):
        values = maps[axis].carry(values, axis)
    return values


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


def _as_meta_tensor(array: np.ndarray, header: NiftiHeader, dtype: torch.dtype) -> MetaTensor:
    affine = torch.from_numpy(header.affine)
    meta = {
        "original_affine": affine.clone(),
        "spatial_shape": torch.tensor(header.shape),
        "filename_or_obj": str(header.path),
        "space": "RAS",
        "geometry": header.geometry,
        "sha256": header.sha256,
        "warnings": "\n".join(header.warnings),
    }
    numpy_dtype = np.float32 if dtype == torch.float32 else np.uint8  # torch lacks some of NIfTI's types
    return MetaTensor(
        torch.from_numpy(array.astype(numpy_dtype, order="K", copy=False))[None], affine=affine, meta=meta
    )


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
