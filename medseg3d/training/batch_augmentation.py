"""Random augmentation of a whole batch at once, on the device that the network trains on.

Libraries were looked at first: MONAI 1.6.1 and TorchIO augment sample by sample; kornia 0.9 takes batches, but has no
factors, offsets and noise in 3-D, and in 2-D noise of one spread alone: its samples would be others than the loader's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.layers import gaussian_1d
from monai.transforms import (
    Compose,
    NormalizeIntensityd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    Randomizable,
    RandomizableTransform,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.utils import map_spatial_axes
from monai.utils import MAX_SEED
from monai.utils.enums import CommonKeys as Keys

from medseg3d.data.cache import Seeder
from medseg3d.errors import UsageError
from medseg3d.knobs import choice
from medseg3d.training.augmentation import Distortion, RandPhotometricd, distorted

Batch = dict[str, torch.Tensor]


class Augmentation:
    """The end of a training's transforms, and where it is done: to each sample in the loader, or to batches later.

    Args:
        transforms: what follows the crops: random transforms, before them others, and after them a normalisation.
        augment_on: `loader`, or `device` for all from the first random transform on.

    Attributes:
        in_loader: what the loader does to a sample.
        on_device: what is done to a batch of them on the device; None for nothing.

    Raises:
        UserError: `BAD_VALUE` for another place, or for transforms that cannot be done to a batch
            (`BatchAugmentation`).
    """

    def __init__(self, transforms: Sequence[Callable], augment_on: str = "loader") -> None:
        chain = Compose(transforms).flatten()
        random = chain.get_index_of_first(lambda step: isinstance(step, Randomizable))
        end = len(chain) if random is None else random
        cut = choice("augment_on", augment_on, {"loader": len(chain), "device": end})
        self.in_loader = Compose(chain.transforms[:cut])
        self.on_device = BatchAugmentation(chain.transforms[cut:]) if cut < len(chain) else None


class BatchAugmentation:
    """Transforms of MONAI's done to all samples of a batch in one pass, where the batch is.

    What each sample gets is drawn by the transforms themselves, so probabilities, ranges and order are theirs: a sample
    is what they make of it alone with the same seed, but for rounding (MONAI resamples in float64, this in float32) and
    for the noise, whose values are drawn on the device. Labels keep their type.

    The seeds are a function of the training's seed, the iteration and the place in the batch of all processes, so an
    interrupted training continues with the same samples, and two processes train on those of one.

    Args:
        transforms: in their order; `BATCHED` has their types.

    Raises:
        UserError: `BAD_VALUE` for a transform of another type, or with arguments that a batch has no place for: another
            factor for each channel, another size, labels between labels, a normalisation by the picture's own mean.

    Example:
        >>> flip = BatchAugmentation([RandFlipd(["image", "label"], prob=1.0, spatial_axis=0)])
        >>> batch = {"image": torch.tensor([[[[1.0], [2.0]]]]), "label": torch.tensor([[[[0], [1]]]])}
        >>> [value.flatten().tolist() for value in flip(batch, seed=0, iteration=1).values()]
        [[2.0, 1.0], [1, 0]]
    """

    def __init__(self, transforms: Sequence[Callable]) -> None:
        for step in transforms:
            if type(step) not in BATCHED or not BATCHED[type(step)].admits(step):
                found = f"device, with {type(step).__name__} among the transforms after the first random one"
                wanted = f"{', '.join(kind.__name__ for kind in BATCHED)}, alike for all channels, at unchanged size"
                raise UsageError("BAD_VALUE", "--augment_on", found, wanted, "--augment_on loader")
        self.chain = Compose(transforms)
        self.seeder = Seeder(self.chain)

    def __call__(self, batch: Mapping[str, torch.Tensor], seed: int, iteration: int, first: int = 0) -> Batch:
        """Another batch, of the same shapes and types on the same device.

        Args:
            batch: `image` (B, C, *spatial), float, and `label` (B, 1, *spatial).
            seed: that of the training, 0 or more.
            iteration: that of the training.
            first: how many samples of the iteration other processes have before these.
        """
        result = {key: value.clone() for key, value in batch.items()}
        image = result[Keys.IMAGE]
        seeds = sample_seeds(seed, iteration, first + len(image))[first:]
        samples = [self._draw(each, image.shape[2:]) for each in seeds]
        for step, drawn in zip(self.chain.transforms, zip(*samples, strict=True), strict=True):
            chosen = [number for number, each in enumerate(drawn) if each is not None]
            if chosen:
                rows = torch.tensor(chosen, device=image.device)
                BATCHED[type(step)].apply(step, result, rows, [drawn[number] for number in chosen])
        return result

    def _draw(self, seed: int, shape: Sequence[int]) -> list[Any]:
        """What each transform does to one sample; None for nothing."""
        self.seeder(seed)
        drawn = []
        for step in self.chain.transforms:
            if isinstance(step, RandomizableTransform):
                step.randomize(None)
            chosen = not isinstance(step, RandomizableTransform) or step._do_transform
            drawn.append(BATCHED[type(step)].draw(step, shape) if chosen else None)
        return drawn


def sample_seeds(seed: int, iteration: int, count: int) -> list[int]:
    """Seeds of the first samples of an iteration, however many more there are.

    Example:
        >>> sample_seeds(0, 3, 9)[:2] == sample_seeds(0, 3, 2) != sample_seeds(0, 4, 2)
        True
    """
    return np.random.SeedSequence(seed, spawn_key=(iteration,)).generate_state(count).tolist()


class Batched(NamedTuple):
    """How a transform is done to a batch.

    Attributes:
        apply: changes the samples of a batch in the rows that are named, by what was drawn for each.
        draw: what is done to a sample of this size that is chosen; anything but None.
        admits: whether this can be done as the transform was made.
    """

    apply: Callable[[Any, Batch, torch.Tensor, Sequence[Any]], None]
    draw: Callable[[Any, Sequence[int]], Any] = lambda step, shape: ()
    admits: Callable[[Any], bool] = lambda step: True


def _flip(step: RandFlipd, batch: Batch, rows: torch.Tensor, drawn: Sequence[Any]) -> None:
    for key in step.keys:
        axes = [axis + 1 for axis in map_spatial_axes(batch[key].ndim - 1, step.flipper.spatial_axis)]
        batch[key][rows] = batch[key][rows].flip(axes)


def _draw_affine(step: RandAffined, shape: Sequence[int]) -> torch.Tensor:
    step.rand_affine.randomize()
    grid = step.rand_affine.rand_affine_grid
    grid(shape, lazy=True)  # draws once more, as RandAffined has it do
    return grid.get_transformation_matrix()


def _affine(step: RandAffined, batch: Batch, rows: torch.Tensor, drawn: Sequence[torch.Tensor]) -> None:
    shape = batch[step.keys[0]].shape[2:]
    # MONAI's matrices are of voxels from the centre, axes in order; torch's of halves of the image, last axis first
    half = torch.tensor(shape) / 2
    matrices = torch.stack(list(drawn)).float()
    linear = matrices[:, :-1, :-1] * half / half[:, None]
    theta = torch.cat([linear.flip(1, 2), (matrices[:, :-1, -1:] / half[:, None]).flip(1)], dim=2)
    grid = F.affine_grid(theta.to(rows.device), [len(rows), 1, *shape], align_corners=False)
    for key, mode, padding in zip(step.keys, step.mode, step.padding_mode, strict=True):
        taken = batch[key][rows].float()
        sampled = F.grid_sample(taken, grid, mode=mode, padding_mode=padding, align_corners=False)
        batch[key][rows] = sampled.to(batch[key].dtype)


def _draw_scale(step: RandScaleIntensityd, shape: Sequence[int]) -> float:
    step.scaler.randomize()
    return 1 + step.scaler.factor


def _scale(step: RandScaleIntensityd, batch: Batch, rows: torch.Tensor, drawn: Sequence[float]) -> None:
    for key in step.keys:
        batch[key][rows] *= _per_sample(drawn, batch[key])


def _draw_shift(step: RandShiftIntensityd, shape: Sequence[int]) -> float:
    step.shifter.randomize()
    return step.shifter._offset


def _shift(step: RandShiftIntensityd, batch: Batch, rows: torch.Tensor, drawn: Sequence[float]) -> None:
    for key in step.keys:
        batch[key][rows] += _per_sample(drawn, batch[key])


def _draw_noise(step: RandGaussianNoised, shape: Sequence[int]) -> tuple[float, int]:
    noise = step.rand_gaussian_noise  # whose own `randomize` would draw every value on the CPU
    noise.R.rand()  # as there: the seed is that of `step`, whose first number chose this sample
    std = noise.R.uniform(0, noise.std) if noise.sample_std else noise.std
    return std, int(noise.R.randint(MAX_SEED, dtype="uint32"))


def _noise(step: RandGaussianNoised, batch: Batch, rows: torch.Tensor, drawn: Sequence[tuple[float, int]]) -> None:
    like = batch[step.keys[0]]
    generator = torch.Generator(like.device)
    noise = [
        std * torch.randn(like.shape[1:], generator=generator.manual_seed(seed), device=like.device, dtype=like.dtype)
        for std, seed in drawn
    ]
    for key in step.keys:
        batch[key][rows] += torch.stack(noise) + step.rand_gaussian_noise.mean


def _draw_smooth(step: RandGaussianSmoothd, shape: Sequence[int]) -> list[torch.Tensor]:
    smooth = step.rand_smooth
    smooth.randomize()
    sigmas = (smooth.x, smooth.y, smooth.z)[: len(shape)]
    return [gaussian_1d(torch.tensor(sigma), approx=smooth.approx) for sigma in sigmas]


def _smooth(step: RandGaussianSmoothd, batch: Batch, rows: torch.Tensor, drawn: Sequence[list[torch.Tensor]]) -> None:
    for key in step.keys:
        taken = batch[key][rows]
        for axis, kernels in enumerate(zip(*drawn, strict=True), start=2):
            longest = max(map(len, kernels))
            kernel = torch.stack([F.pad(each, [(longest - len(each)) // 2] * 2) for each in kernels])
            lines = taken.movedim(axis, -1).movedim(0, -2)  # (C, other axes, B, axis): each sample has its own kernel
            smoothed = F.conv1d(
                lines.flatten(0, -3), kernel[:, None].to(taken), padding=longest // 2, groups=len(kernels)
            )
            taken = smoothed.view(lines.shape).movedim(-2, 0).movedim(-1, axis)
        batch[key][rows] = taken


def _colours(step: RandPhotometricd, batch: Batch, rows: torch.Tensor, drawn: Sequence[Distortion]) -> None:
    for key in step.keys:
        values = Distortion(*(_per_sample(each, batch[key]) for each in zip(*drawn, strict=True)))
        batch[key][rows] = distorted(batch[key][rows], values)


def _normalise(step: NormalizeIntensityd, batch: Batch, rows: torch.Tensor, drawn: Sequence[Any]) -> None:
    batch.update({key: value.as_subclass(torch.Tensor) for key, value in step(batch).items()})


def _per_sample(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.ndim - 1))


BATCHED: dict[type, Batched] = {
    RandFlipd: Batched(_flip),
    RandAffined: Batched(
        _affine,
        _draw_affine,
        lambda step: (
            step.rand_affine.spatial_size is None
            and dict(zip(step.keys, step.mode, strict=True)).get(Keys.LABEL, "nearest") == "nearest"
        ),
    ),
    RandScaleIntensityd: Batched(_scale, _draw_scale, lambda step: not step.scaler.channel_wise),
    RandShiftIntensityd: Batched(
        _shift, _draw_shift, lambda step: not step.shifter.channel_wise and not any(step.factor_key)
    ),
    RandGaussianNoised: Batched(_noise, _draw_noise),
    RandGaussianSmoothd: Batched(_smooth, _draw_smooth),
    RandPhotometricd: Batched(_colours, lambda step, shape: step.distortion),
    NormalizeIntensityd: Batched(
        _normalise,
        admits=lambda step: (
            step.normalizer.subtrahend is not None
            and step.normalizer.divisor is not None
            and not step.normalizer.channel_wise
            and not step.normalizer.nonzero
        ),
    ),
}
"""What can be done to a batch, and how."""
