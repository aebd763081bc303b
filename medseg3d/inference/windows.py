"""Sliding windows: over volumes, over images, and over the slices of a volume."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInfererAdapt
from monai.utils import convert_to_dst_type, ensure_tuple_rep, fall_back_tuple

from medseg3d.errors import UsageError
from medseg3d.inference.engines import EngineOf
from medseg3d.networks.memory_format import channels_last
from medseg3d.precision import Precision, resolved

_Inferer = TypeVar("_Inferer")

SCALE = 2
"""How many times coarser, along each axis, the volume is for the pass that finds the region."""

SEEN = 0.1
"""Probability of any foreground from which on a voxel of that pass belongs to the region."""

_SURE = 30.0  # a logit whose probability is 1 in float32


class SlidingWindow(SlidingWindowInfererAdapt):
    """MONAI's sliding windows, run in channels-last memory and, if requested, in reduced precision.

    A volume smaller than a window is padded with `cval` on both sides and the logits are cropped back, as MONAI does:
    after ScaleIntensityRanged a `cval` of 0 is what lies below the window of intensities, air. On a GPU the logits are
    stitched there, and on the CPU when it lacks the memory. Windows of one value throughout, such as air, are computed
    once: with the same logits, as a network in eval mode gives them.

    With a region of interest only those windows of the same grid are computed that a part of the volume needs. The part
    is the bounding box of what the same network finds at half the resolution (a probability of 0.1 or more of any
    foreground), and a margin around it; where it finds nothing, every window is computed. Within the box logits differ
    from those of all windows by what the windows left out would have weighed, at most `region_tau` of the greatest
    weight each; outside they are those of background.

    Args:
        roi_size: the window, voxels along each axis.
        overlap: share of the window that neighbours have in common, 0 to 1.
        sw_batch_size: windows per forward pass.
        mode: how windows are blended, `gaussian` or `constant`.
        precision: of the network, as `medseg3d.precision.choose_precision` takes or gives it; logits are stitched in
            float32.
        channels_last: whether windows are handed to the network in channels-last memory; the network stays as it is.
        device: where the logits are stitched; None as above.
        padding_mode: how small volumes are padded.
        cval: the value they are padded with.
        progress: whether to show a bar over the windows.
        mirror_axes: test-time augmentation: the logits are the mean over the windows mirrored along every combination
            of these spatial axes (0 the first), mirrored back; 2 ** len(mirror_axes) times the work, in one batch, as
            nnU-Net has it (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z).
        region_tau: blending weight, 0 to 1, that a window has to exceed somewhere in the region; 0 for no region.
        region_margin: voxels added to the region on every side.

    Attributes:
        engine: what computes the windows instead of torch, as `with_engine` sets it; None for torch.

    Raises:
        UserError: BAD_VALUE for axes that are not different ones of 0, 1 and 2, and for a `region_tau` outside of 0 to
            1; when called, for an axis that the windows have not, and as `EngineOf`.

    Example:
        >>> volume = torch.rand(1, 1, 10, 40, 24)
        >>> SlidingWindow((16, 16, 16))(volume, lambda window: 2 * window).sub(2 * volume).abs().max() < 1e-5
        tensor(True)
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        overlap: Sequence[float] | float = 0.5,
        sw_batch_size: int = 1,
        mode: str = "gaussian",
        precision: Precision | str = "float32",
        channels_last: bool = True,
        device: str | torch.device | None = None,
        padding_mode: str = "constant",
        cval: float = 0.0,
        progress: bool = False,
        mirror_axes: Sequence[int] = (),
        region_tau: float = 0.0,
        region_margin: int = 16,
    ) -> None:
        super().__init__(
            roi_size=roi_size,
            sw_batch_size=sw_batch_size,
            overlap=overlap,
            mode=mode,
            padding_mode=padding_mode,
            cval=cval,
            device=device,
            progress=progress,
        )
        self.precision = precision
        self.channels_last = channels_last
        self.engine: EngineOf | None = None
        self.mirror_axes = list(mirror_axes)
        if len(set(self.mirror_axes)) < len(self.mirror_axes) or not {*self.mirror_axes} <= {0, 1, 2}:
            raise UsageError(
                "BAD_VALUE",
                "--mirror_axes",
                repr(mirror_axes),
                "distinct spatial axes out of 0, 1 and 2",
                "--mirror_axes [0,1,2], or [] for none",
            )
        if not 0 <= region_tau < 1:
            raise UsageError(
                "BAD_VALUE",
                "--region_tau",
                repr(region_tau),
                "a fraction of the greatest weight, 0 to 1",
                "--region_tau 0 to turn it off",
            )
        self.region_tau = region_tau
        self.region_margin = region_margin

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Logits (B, C, *spatial) float32 of a batch (B, channels, *spatial)."""

        def forward(window: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.engine is not None:
                return self.engine(network, window, resolved(self.precision, window.device), *args, **kwargs)
            window = _channels_last(window) if self.channels_last else window
            with resolved(self.precision, window.device).autocast(window.device.type):
                output = network(window, *args, **kwargs)
            return output.float() if isinstance(output, torch.Tensor) else output

        seen = _constants_once(mirrored(forward, self.mirror_axes) if self.mirror_axes else forward)
        box = self._region(inputs, seen, *args, **kwargs) if self.region_tau else None
        if box is None:
            return super().__call__(inputs, seen, *args, **kwargs)
        logits = super().__call__(inputs[(slice(None), slice(None), *box)], seen, *args, **kwargs)
        return convert_to_dst_type(with_background(logits, box, inputs.shape[2:]), inputs, dtype=logits.dtype)[0]

    def _region(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> list[slice] | None:
        """Where the windows to compute lie, along each axis; None where no foreground is found."""
        coarse = F.interpolate(inputs, scale_factor=1 / SCALE, mode="area")
        found = foreground_box(super().__call__(coarse, network, *args, **kwargs))
        if found is None:
            return None
        box = []
        shape, overlaps = inputs.shape[2:], ensure_tuple_rep(self.overlap, inputs.ndim - 2)
        windows = fall_back_tuple(self.roi_size, shape)
        for (low, high), size, window, overlap in zip(found, shape, windows, overlaps, strict=True):
            part = max(SCALE * low - self.region_margin, 0), min(SCALE * high + self.region_margin, size)
            box.append(windows_over(part, max(size, window), window, overlap, str(self.mode.value), self.region_tau))
        return box


def with_engine(inferer: _Inferer, engine: str) -> _Inferer:
    """The inferer itself, its windows computed by another engine than torch.

    Args:
        inferer: a `SlidingWindow`; with `torch` any.
        engine: `torch`, or what `EngineOf` takes.

    Raises:
        UserError: BAD_VALUE, MISSING_PACKAGE.

    Example:
        >>> with_engine(SlidingWindow((16, 16)), "torch").engine is None
        True
    """
    if engine == "torch":
        return inferer
    if not isinstance(inferer, SlidingWindow):
        raise UsageError("BAD_VALUE", f"--engine {engine}", type(inferer).__name__, "sliding windows", "--engine torch")
    inferer.engine = EngineOf(engine)
    return inferer


def mirrored(network: Callable[..., torch.Tensor], axes: Sequence[int]) -> Callable[..., torch.Tensor]:
    """A network whose logits are the mean over all mirror images of what it sees, each mirrored back.

    Args:
        network: logits (B, C, *spatial) of a batch (B, channels, *spatial).
        axes: spatial axes; the images are mirrored along every combination of them, none of them included.

    Raises:
        UserError: BAD_VALUE when called, for an axis that the batch has not.

    Example:
        >>> network = mirrored(lambda batch: batch.cumsum(-1), axes=[1])
        >>> network(torch.ones(1, 1, 1, 3)).flatten().tolist()
        [2.0, 2.0, 2.0]
    """
    combinations = [dims for number in range(len(axes) + 1) for dims in itertools.combinations(axes, number)]

    def mean(batch: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if max(axes) >= batch.ndim - 2:
            raise UsageError(
                "BAD_VALUE",
                "--mirror_axes",
                f"{list(axes)}",
                f"axes of windows {tuple(batch.shape[2:])}",
                "leave out the others",
            )
        flips = [[axis + 2 for axis in combination] for combination in combinations]
        logits = network(torch.cat([batch.flip(dims) for dims in flips]), *args, **kwargs).chunk(len(flips))
        return torch.stack([part.flip(dims) for part, dims in zip(logits, flips, strict=True)]).mean(0)

    return mean


class SliceWindows(SlidingWindow):
    """2-D sliding windows over every slice of a volume, each slice with its neighbours as channels.

    The channels of slice z are the slices z - n to z + n of the volume; beyond its ends the border slice is repeated,
    so that the first and the last slice are segmented too. A batch of images (B, channels, H, W) goes through
    `SlidingWindow` as it is.

    Args:
        roi_size: the window, pixels along the two in-plane axes.
        neighbours: n, the slices on each side.
        copies: how often these channels are given: 3 with no neighbours for a network of RGB images, which takes a
            slice for a grey one.
        slices_per_batch: slices whose logits are stitched at a time; bounds the memory, not the result.
        kwargs: as in `SlidingWindow`.

    Example:
        A "network" that returns its middle channel gives the volume back.

        >>> volume = torch.rand(1, 1, 20, 12, 5)
        >>> inferer = SliceWindows((16, 16), neighbours=1, slices_per_batch=2)
        >>> (inferer(volume, lambda window: window[:, 1:2]) - volume).abs().max() < 1e-5
        tensor(True)
    """

    def __init__(
        self, roi_size: Sequence[int], neighbours: int = 1, slices_per_batch: int = 8, copies: int = 1, **kwargs: Any
    ) -> None:
        if len(roi_size) != 2:
            raise ValueError(f"roi_size must have 2 axes, got {list(roi_size)}")
        if neighbours < 0 or slices_per_batch < 1:
            raise ValueError(f"neighbours must be >= 0 and slices_per_batch >= 1, got {neighbours}, {slices_per_batch}")
        if copies < 1:
            raise ValueError(f"copies must be >= 1, got {copies}: are there fewer in_channels than 2 * neighbours + 1?")
        super().__init__(roi_size=roi_size, **kwargs)
        self.neighbours = neighbours
        self.copies = copies
        self.slices_per_batch = slices_per_batch

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Logits (1, C, X, Y, Z) of a volume (1, 1, X, Y, Z), or (B, C, H, W) of 2-D images (B, channels, H, W)."""
        if inputs.ndim == 4:
            return super().__call__(inputs, network, *args, **kwargs)
        if inputs.ndim != 5 or inputs.shape[:2] != (1, 1):
            raise ValueError(f"inputs must be (1, 1, X, Y, Z) or (B, channels, H, W), found {tuple(inputs.shape)}")
        slices = inputs[0, 0].permute(2, 0, 1)  # (Z, X, Y)
        depth = len(slices)
        offsets = torch.arange(-self.neighbours, self.neighbours + 1).repeat(self.copies)
        logits: torch.Tensor | None = None
        for start in range(0, depth, self.slices_per_batch):
            middle = torch.arange(start, min(start + self.slices_per_batch, depth))
            chosen = (middle[:, None] + offsets).clamp(0, depth - 1).to(slices.device)
            part = super().__call__(slices[chosen], network, *args, **kwargs)
            if logits is None:
                logits = part.new_empty((1, part.shape[1], *inputs.shape[2:]))
            logits[0, ..., start : start + len(middle)] = part.permute(1, 2, 3, 0)
        return logits


def foreground_box(logits: torch.Tensor) -> list[tuple[int, int]] | None:
    """First voxel, and the one after the last, along each axis of what may be foreground; None where nothing may.

    Args:
        logits: (B, C, *spatial); one channel is the foreground's, of several the first is the background's.

    Example:
        >>> logits = torch.full((1, 1, 8, 6), -9.0)
        >>> logits[..., 2:4, 5] = 0
        >>> foreground_box(logits)
        [(2, 4), (5, 6)]
    """
    foreground = logits.sigmoid()[:, 0] if logits.shape[1] == 1 else 1 - logits.softmax(1)[:, 0]
    seen = (foreground >= SEEN).any(0)
    if not seen.any():
        return None
    return [(int(along.min()), int(along.max()) + 1) for along in seen.nonzero().unbind(1)]


def windows_over(
    part: tuple[int, int], size: int, window: int, overlap: float, mode: str = "gaussian", tau: float = 0.0
) -> slice:
    """From the first to the last of the windows along one axis that a part of it needs.

    Needed is a window whose blending weight exceeds `tau` somewhere in the part; and, whatever its weight, the one that
    weighs most at either end, so that every voxel of the part is in some window.

    Args:
        part: its first voxel, and the one after its last.
        size: voxels along the axis, at least those of a window.
        window: voxels of a window.
        overlap: share of the window that neighbours have in common, 0 to 1.
        mode: of blending, `gaussian` or `constant`.
        tau: share of the greatest blending weight, 0 to 1.

    Example:
        Windows begin at 0, 8, 16 and 24.

        >>> windows_over((14, 20), size=40, window=16, overlap=0.5, mode="constant")
        slice(0, 32, None)
        >>> windows_over((14, 20), size=40, window=16, overlap=0.5, tau=0.2)
        slice(8, 24, None)
    """
    interval = window if window == size else max(int(window * (1 - overlap)), 1)
    starts = [int(along.start) for (along,) in dense_patch_slices((size,), (window,), (interval,))]
    weights = compute_importance_map((window,), mode=mode)

    def weight(start: int, low: int, high: int) -> float:
        met = weights[max(low - start, 0) : max(high - start, 0)]
        return float(met.max()) if len(met) else 0.0

    low, high = part
    ends = {max(starts, key=lambda start: weight(start, voxel, voxel + 1)) for voxel in (low, high - 1)}
    needed = [start for start in starts if start in ends or weight(start, low, high) > tau]
    return slice(needed[0], needed[-1] + window)


def with_background(logits: torch.Tensor, box: Sequence[slice], shape: Sequence[int]) -> torch.Tensor:
    """Logits (B, C, *shape) that are the given ones (B, C, *spatial) in a box and those of background elsewhere."""
    whole = logits.new_full((*logits.shape[:2], *shape), -_SURE)
    if logits.shape[1] > 1:
        whole[:, 0] = _SURE
    whole[(slice(None), slice(None), *box)] = logits
    return whole


def _constants_once(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A network that computes batches of one value throughout once for each value, and remembers the logits."""
    answers: dict[tuple, torch.Tensor] = {}

    def answer(windows: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        low, high = windows.aminmax()
        if args or kwargs or not bool(low == high):
            return forward(windows, *args, **kwargs)
        key = (float(low), windows.shape)
        if key not in answers:
            logits = forward(windows)
            if not isinstance(logits, torch.Tensor):
                return logits
            answers[key] = logits
        return answers[key].clone()  # MONAI weighs what it is given in place

    return answer


def _channels_last(window: torch.Tensor) -> torch.Tensor:
    window = channels_last(window)
    if window.ndim < 4 or window.shape[1] != 1:
        return window
    # one channel looks the same in both formats, and torch would take it for the other one
    strides = list(window.stride())
    strides[1] = 1
    return window.as_strided(window.shape, strides)
