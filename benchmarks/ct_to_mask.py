"""CT file to mask file, against the chain of MONAI's bundles with the same network, windows, overlap and device."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from harness import Arm, Target, argument_parser, run_benchmark
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImaged,
    ScaleIntensityRanged,
    Spacingd,
)

from medseg3d.inference import SlidingWindow, with_engine
from medseg3d.inference.backends import ENGINES
from medseg3d.networks import SegResNetNL
from medseg3d.networks.memory_format import channels_last
from medseg3d.transforms import InvertToOriginald, LoadVolumed, ResampleVolumed, SaveMaskd

STOCK = "MONAI's chain"
NNUNET = "nnU-Net's predictor"
OURS = "ours, float32"
BFLOAT16 = "ours, bfloat16"
FLOAT16 = "ours, float16"
OPENVINO = "ours, OpenVINO"
OPENVINO_BFLOAT16 = "ours, OpenVINO, bfloat16"
PRECISIONS = {
    **{OURS: "float32", BFLOAT16: "bfloat16", FLOAT16: "float16"},
    **{OPENVINO: "float32", OPENVINO_BFLOAT16: "bfloat16"},
}
WHOLE, NO_NETWORK = "CT file to mask file", "the same, without a network"
BEFORE, AFTER = "CT file to network", "logits to mask file"
WINDOW_HU = (-100, 240)
AXES = (("L", "R"), ("P", "A"), ("I", "S"))

Chains = tuple[Callable[[dict], dict], Callable[..., torch.Tensor], Callable[[dict], Any], Path]


def whole_case(arm: str, network: bool, paths: tuple[Path, Path], knobs: dict) -> Callable[[], Path]:
    """A call that makes the mask file of a CT file and gives its path."""
    if arm == NNUNET:
        from nnunet_predictor import nnunet_case  # of a package that only this arm needs

        return nnunet_case(*paths, random_network(knobs), WINDOW_HU, knobs)
    before, inferer, after, mask = chains(arm, paths, knobs)
    model = no_network
    if network:
        model = random_network(knobs).to(knobs["device"])
        model = model if arm == STOCK else channels_last(model)

    def call() -> Path:
        with torch.inference_mode():
            item = before({"image": str(paths[0]), "mask_file": mask})
            item["pred"] = inferer(item["image"][None].to(knobs["device"]), model)[0]
            after(item)
        return mask

    return call


def before_the_network(arm: str, paths: tuple[Path, Path], knobs: dict) -> Callable[[], np.ndarray]:
    """A call that reads and preprocesses a CT file and gives every third voxel along each axis."""
    before = chains(arm, paths, knobs)[0]
    return lambda: np.asarray(before({"image": str(paths[0])})["image"][0, ::3, ::3, ::3])


def after_the_network(arm: str, paths: tuple[Path, Path], knobs: dict) -> Callable[[], Path]:
    """A call that makes the mask file of given logits and gives its path."""
    before, inferer, after, mask = chains(arm, paths, knobs)
    item = before({"image": str(paths[0]), "mask_file": mask})
    item["pred"] = inferer(item["image"][None], no_network)[0]

    def call() -> Path:
        after(dict(item))
        return mask

    return call


def chains(arm: str, paths: tuple[Path, Path], knobs: dict) -> Chains:
    """What comes before the network, the inferer, what comes after it, and the mask file."""
    image, folder = paths
    stem = image.name.removesuffix(".gz").removesuffix(".nii")
    roi_size, overlap, batch = knobs["roi_size"], knobs["overlap"], knobs["sw_batch_size"]
    window = ScaleIntensityRanged("image", *WINDOW_HU, 0, 1, clip=True)
    if arm == STOCK:
        orient = Orientationd("image", axcodes="RAS", labels=AXES)
        resample = Spacingd("image", knobs["spacing"])
        before = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), orient, resample, window])
        after = Compose(
            [
                Activationsd("pred", softmax=True),
                Invertd("pred", before, orig_keys="image", nearest_interp=False),
                AsDiscreted("pred", argmax=True),
                SaveImaged(
                    "pred", output_dir=folder / arm, output_postfix="seg", separate_folder=False, print_log=False
                ),
            ]
        )
        inferer = SlidingWindowInferer(roi_size, sw_batch_size=batch, overlap=overlap, mode="gaussian")
        return before, inferer, after, folder / arm / f"{stem}_seg.nii.gz"
    before = Compose([LoadVolumed("image", keep_integers=True), ResampleVolumed("image", knobs["spacing"]), window])
    after = Compose([InvertToOriginald("pred"), SaveMaskd("pred")])
    inferer = SlidingWindow(roi_size, overlap, batch, precision=PRECISIONS[arm])
    if arm in (OPENVINO, OPENVINO_BFLOAT16):
        with_engine(inferer, "openvino")
    return before, inferer, after, folder / arm / f"{stem}_seg.nii.gz"


def random_network(knobs: dict) -> torch.nn.Module:
    """The pancreas network with random weights, shifted so that both classes occur."""
    torch.manual_seed(0)
    network = SegResNetNL(init_filters=knobs["init_filters"]).eval()
    with torch.inference_mode():
        logits = network(torch.rand(1, 1, 32, 32, 32))[0]
    bias = network.conv_final[2].conv.bias
    bias.data[1] += (logits[0] - logits[1]).median()
    return network


def no_network(image: torch.Tensor) -> torch.Tensor:
    """Logits that say 1 above the middle of the window."""
    above = 8 * (image - 0.5)
    return torch.cat([-above, above], 1)


def compare(stock: Any, ours: Any) -> dict[str, float]:
    """How far the results of an arm are from those of the baseline."""
    if isinstance(stock, np.ndarray):
        return {"largest difference HU": float(np.abs(stock - ours).max() * (WINDOW_HU[1] - WINDOW_HU[0]))}
    one, other = (np.asarray(nib.load(path).dataobj) == 1 for path in (stock, ours))
    dice = 2 * np.count_nonzero(one & other) / max(1, np.count_nonzero(one) + np.count_nonzero(other))
    return {
        "foreground %": float(100 * one.mean()),
        "differing labels, ppm": float(1e6 * np.mean(one != other)),
        "1 - Dice": 1 - dice,
        "affine difference": float(np.abs(nib.load(stock).affine - nib.load(ours).affine).max()),
    }


def ct_file(arguments: Any, folder: Path) -> Path:
    """The CT asked for; a phantom is made on the spot."""
    if arguments.phantom:
        from medseg3d.phantoms.ct import make_phantom

        phantom = make_phantom(0, orientation="LPS")
        nib.save(nib.Nifti1Image(phantom.ct, phantom.affine), folder / "phantom.nii.gz")
        return folder / "phantom.nii.gz"
    data = os.environ.get("MEDSEG3D_DATA")
    if not data:
        sys.exit("MEDSEG3D_DATA names no folder of real images; set it, or run with --phantom")
    return Path(data, "nih-pancreas-ct", arguments.ct, "image_0001.nii.gz")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--ct", choices=["small", "full"], default="full", help="which NIH volume (default: full)")
    parser.add_argument("--phantom", action="store_true", help="a generated volume instead")
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.5, 1.5, 2.0), metavar="MM")
    parser.add_argument("--roi-size", type=int, nargs=3, default=(96, 96, 96), metavar="VOXELS")
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--sw-batch-size", type=int, default=2, help="windows per forward pass, in every arm")
    parser.add_argument("--init-filters", type=int, default=16)
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="of the network (default: %(default)s)"
    )
    arguments = parser.parse_args()
    names = ("spacing", "roi_size", "overlap", "sw_batch_size", "init_filters", "device")
    knobs = {name: getattr(arguments, name) for name in names}
    ways = [STOCK, OURS, BFLOAT16]
    if arguments.device == "cuda":
        ways.append(FLOAT16)
    elif ENGINES["openvino"].installed:
        ways += [OPENVINO, OPENVINO_BFLOAT16]
    if find_spec("nnunetv2"):
        ways.append(NNUNET)
    place = "the CPU" if arguments.device == "cpu" else torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory() as temporary:
        paths = (ct_file(arguments, Path(temporary)), Path(temporary))
        shape = " x ".join(map(str, nib.load(paths[0]).shape))
        options = {"paths": paths, "knobs": knobs}
        arms = [
            *(Arm(arm, partial(whole_case, arm, True, **options), WHOLE) for arm in ways),
            *(Arm(arm, partial(whole_case, arm, False, **options), NO_NETWORK) for arm in (STOCK, OURS)),
            *(Arm(arm, partial(before_the_network, arm, **options), BEFORE) for arm in (STOCK, OURS)),
            *(Arm(arm, partial(after_the_network, arm, **options), AFTER) for arm in (STOCK, OURS)),
        ]
        run_benchmark(
            "CT file to mask file",
            arms,
            baseline=STOCK,
            compare=compare,
            targets=[
                Target(WHOLE, OURS, "speedup", 1.8),
                Target(WHOLE, BFLOAT16, "speedup", 4.5),
                Target(AFTER, OURS, "speedup", 10),
                Target(BEFORE, OURS, "speedup", 3),
            ],
            description=(
                f"One CT of {shape} voxels, resampled to {' x '.join(map(str, knobs['spacing']))} mm; windows of "
                f"{' x '.join(map(str, knobs['roi_size']))} with overlap {knobs['overlap']}; SegResNetNL with "
                f"{knobs['init_filters']} filters and random weights on {place}; {knobs['sw_batch_size']} windows "
                f"per forward pass in every arm. *{STOCK}*: LoadImaged, EnsureChannelFirstd, "
                "Orientationd, Spacingd, ScaleIntensityRanged, SlidingWindowInferer, softmax, Invertd without "
                "nearest_interp, argmax, SaveImaged, all with their defaults, as in the model zoo's bundles. "
                "*ours*: LoadVolumed (which verifies the file), ResampleVolumed, SlidingWindow, InvertToOriginald, "
                "SaveMaskd (which reads the mask back). *nnU-Net*, if nnunetv2 is installed: nnUNetPredictor with "
                "the same network, windows, step and HU window, without mirroring; it resamples with third-order "
                "splines, orders axes as z, y, x of LPS, so that random weights label other voxels, processes one "
                "window at a time, and keeps the logits of the whole volume in float16. *OpenVINO*: `--engine "
                "openvino`, built in the first call, which is not timed. Random weights do not show how much Dice "
                "bfloat16 costs with trained ones. The machine was shared: trust the ratios, not the seconds."
            ),
            **{name: getattr(arguments, name) for name in ("repeats", "threads", "output")},
        )


if __name__ == "__main__":
    main()
