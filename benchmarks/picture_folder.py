"""A folder of pictures to a folder of masks on a CPU, against a plain loop over the files with the same network."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import Arm, Target, argument_parser, run_benchmark
from monai.data import PILReader
from monai.transforms import Compose, LoadImage, NormalizeIntensityd, Resize, ScaleIntensityRange
from PIL import Image

from medseg3d.data.outputs import input_items
from medseg3d.inference import CasePredictor, SlidingWindow, load_weights, with_engine
from medseg3d.inference.backends import ENGINES
from medseg3d.networks import ResUNetPlusPlus
from medseg3d.networks.memory_format import channels_last
from medseg3d.phantoms.polyps import make_polyp_phantom
from medseg3d.transforms import InvertToOriginald, LoadPictured, ResizePictured, SavePictureMaskd

LOOP = "plain loop"
NETWORK = "its network alone"
ONE = "ours, one worker"
OURS = "ours"
BFLOAT16 = "ours, bfloat16"
OPENVINO = "ours, OpenVINO"
OPENVINO_BFLOAT16 = "ours, OpenVINO, bfloat16"


def plain_loop(pictures: list[Path], masks: Path, size: int, weights: Path | None) -> Callable[[], Path]:
    """A call that writes the masks one after the other, as one would with MONAI, and gives their folder."""
    before = chain(size)
    network = trained_or_random(weights)

    def call() -> Path:
        for path in pictures:
            picture = before[0](path)
            with torch.inference_mode():
                prob = network(Compose(before[1:])(picture)[None]).sigmoid()[0]
            mask = Resize(picture.shape[1:], mode="bilinear")(prob)[0] > 0.5
            Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(masks / f"{path.stem}_seg.png")
        return masks

    return call


def network_alone(pictures: list[Path], masks: Path, size: int, weights: Path | None) -> Callable[[], None]:
    """A call that does nothing of it but the network's part: the most that all the rest can gain is this."""
    network = trained_or_random(weights)
    images = [Compose(chain(size))(path)[None].as_tensor() for path in pictures]

    def call() -> None:
        with torch.inference_mode():
            for image in images:
                network(image)

    return call


def ours(
    pictures: list[Path],
    masks: Path,
    size: int,
    weights: Path | None,
    workers: int | None,
    precision: str = "float32",
    engine: str = "torch",
) -> Callable[[], Path]:
    """A call that writes the masks as `medseg3d predict` does, records included, and gives their folder."""
    network = channels_last(trained_or_random(weights))
    zero, one = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    preprocessing = Compose(
        [
            LoadPictured("image"),
            ResizePictured("image", (size, size)),
            NormalizeIntensityd("image", subtrahend=zero, divisor=one),
        ]
    )
    postprocessing = Compose([InvertToOriginald("pred"), SavePictureMaskd("pred")])
    inferer = with_engine(SlidingWindow((size, size), sw_batch_size=4, precision=precision), engine)

    def call() -> Path:
        predictor = CasePredictor(
            dataset=input_items(pictures, masks, overwrite=True, mask_suffix=".png"),
            network=network,
            inferer=inferer,
            preprocessing=preprocessing,
            postprocessing=postprocessing,
            workers=workers,
            overwrite=True,
        )
        predictor.run().check()
        return masks

    return call


def chain(size: int) -> list[Callable]:
    """What MONAI offers to bring a file to the network: the same values that ours gets."""
    return [
        LoadImage(PILReader(reverse_indexing=False), image_only=True, ensure_channel_first=True),
        ScaleIntensityRange(0, 255, 0, 1),
        Resize((size, size), mode="bilinear", anti_aliasing=True),
    ]


def trained_or_random(weights: Path | None) -> torch.nn.Module:
    """ResUNet++ in plain memory; with random weights its last bias is such that both classes occur."""
    torch.manual_seed(0)
    network = ResUNetPlusPlus().eval()
    if weights is None:
        with torch.inference_mode():
            shift = network(torch.rand(1, 3, 64, 64)).median()
        network.head.bias.data -= shift
        return network
    return load_weights(network, weights).to(memory_format=torch.contiguous_format)


def compare(loop: Path | None, own: Path | None) -> dict[str, float]:
    """How far the masks of an arm are from those of the loop."""
    if own is None or loop is None:
        return {}
    pairs = list(both_masks(loop, own))
    pixels = sum(one.size for one, _ in pairs)
    both = sum(np.count_nonzero(one & other) for one, other in pairs)
    either = sum(np.count_nonzero(one) + np.count_nonzero(other) for one, other in pairs)
    return {
        "foreground %": 100 * sum(np.count_nonzero(one) for one, _ in pairs) / pixels,
        "differing labels, ppm": 1e6 * sum(np.count_nonzero(one != other) for one, other in pairs) / pixels,
        "1 - Dice": 1 - 2 * both / max(1, either),
    }


def both_masks(loop: Path, own: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The masks of one picture after the other."""
    for path in sorted(loop.glob("*.png")):
        yield np.asarray(Image.open(path)) > 0, np.asarray(Image.open(own / path.name)) > 0


def picture_files(arguments: argparse.Namespace, folder: Path) -> list[Path]:
    """The pictures asked for, evenly out of Kvasir-SEG; phantoms are made on the spot."""
    if arguments.phantom:
        for seed in range(arguments.pictures):
            phantom = make_polyp_phantom(seed, size=(529, 622))
            Image.fromarray(phantom.picture).save(folder / f"phantom_{seed}.jpg", quality=95)
        return sorted(folder.glob("*.jpg"))
    data = os.environ.get("MEDSEG3D_DATA")
    if not data:
        sys.exit("MEDSEG3D_DATA names no folder of real images; set it, or run with --phantom")
    files = sorted(Path(data, "kvasir-seg", "images").iterdir())
    return files[:: max(1, len(files) // arguments.pictures)][: arguments.pictures]


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--pictures", type=int, default=24, help="how many (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 352], help="sides of what the network sees")
    parser.add_argument("--phantom", action="store_true", help="generated images instead of Kvasir-SEG's")
    parser.add_argument("--model-file", type=Path, help="weights of ResUNet++ (default: random ones)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = picture_files(arguments, folder)
        arms = []
        for size in arguments.sizes:
            ways: dict[str, Callable] = {
                LOOP: plain_loop,
                NETWORK: network_alone,
                ONE: partial(ours, workers=1),
                OURS: partial(ours, workers=None),
                BFLOAT16: partial(ours, workers=None, precision="bfloat16"),
            }
            if ENGINES["openvino"].installed:
                ways[OPENVINO] = partial(ours, workers=None, engine="openvino")
                ways[OPENVINO_BFLOAT16] = partial(ours, workers=None, precision="bfloat16", engine="openvino")
            for name, way in ways.items():
                masks = folder / f"{size} {name}"
                masks.mkdir()
                options = {"pictures": files, "masks": masks, "size": size, "weights": arguments.model_file}
                arms.append(Arm(name, partial(way, **options), f"{size} x {size}"))
        weights = "random weights" if arguments.model_file is None else f"the weights {arguments.model_file.name}"
        source = "generated" if arguments.phantom else "Kvasir-SEG"
        run_benchmark(
            "From a folder of images to a folder of masks",
            arms,
            baseline=LOOP,
            compare=compare,
            targets=[
                Target(f"{size} x {size}", arm, "speedup", 3) for size in arguments.sizes for arm in (OURS, BFLOAT16)
            ],
            description=(
                f"{len(files)} {source} images to masks in the size of each image, ResUNet++ with {weights}. *{LOOP}*: "
                "LoadImage, ScaleIntensityRange, Resize (bilinear, antialiased), the network on one image, sigmoid, "
                f"Resize back, threshold, PNG by Pillow. *{NETWORK}*: only the network part of that loop, so that "
                "*faster* shows the largest possible gain, if everything else were free. *ours*: CasePredictor with "
                "as many workers as torch has threads, as in `medseg3d predict`; it also hashes the images, reads "
                "every mask back, flushes it to disk, and writes a record for each case. *OpenVINO*: `--engine "
                "openvino`, built in the first call, which is not timed. Seconds are for all images together. The "
                "machine may have been shared: trust the ratios, not the seconds."
            ),
            **{name: getattr(arguments, name) for name in ("repeats", "threads", "output")},
        )


if __name__ == "__main__":
    main()
