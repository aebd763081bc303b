"""Samples per second of a training, against the recipe of the model zoo's spleen bundle with the same network."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import Arm, Report, Target, argument_parser, run_benchmark
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    Orientationd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandRotate90d,
    RandShiftIntensityd,
    ScaleIntensityRanged,
    Spacingd,
)

from medseg3d.bundle import read_config
from medseg3d.bundle_folders import bundle_directory, config_files
from medseg3d.data.msd import read_msd
from medseg3d.networks import SegResNetNL
from medseg3d.phantoms.ct import write_phantom_dataset

STOCK = "zoo's spleen recipe"
OURS = "ours, float32"
BFLOAT16 = "ours, bfloat16"
COMPILED = "ours, bfloat16, compiled"
ON_DEVICE = "ours, float32, augment_on device"
WAYS = {
    OURS: {"precision": "float32"},
    ON_DEVICE: {"precision": "float32", "augment_on": "device"},
    BFLOAT16: {"precision": "bfloat16"},
    COMPILED: {"precision": "bfloat16", "compile": True},
}
BUNDLE = Path(__file__).resolve().parents[1] / "bundles/pancreas_nl"
AXES = (("L", "R"), ("P", "A"), ("I", "S"))
CROPS = 4

DESCRIPTION = (
    "Epochs of {iterations} iterations, each with {crops} crops of {size}³ voxels of one cached phantom, SegResNetNL "
    "with {filters} filters. *{stock}*: the transforms, CacheDataset, DiceCELoss and SupervisedTrainer of "
    "spleen_ct_segmentation with Adam, in float32, because its automatic mixed precision is for CUDA only. *ours*: the "
    "training of `pancreas_nl` as it is, with a full checkpoint after each epoch. No arm validates. *augment_on "
    "device*: the same augmentation, one batch at a time. *compiled*: `--compile true`, compiled in the first call, "
    "which is not timed. The machine may have been shared: trust the ratios, not the seconds."
)


def stock(data: Path, knobs: Mapping[str, Any], iterations: int) -> Callable[[], None]:
    """A call that trains one epoch as the model zoo's spleen bundle does."""
    both = ("image", "label")
    size = knobs["roi_size"]
    chain = Compose(
        [
            LoadImaged(both),
            EnsureChannelFirstd(both),
            Orientationd(both, axcodes="RAS", labels=AXES),
            Spacingd(both, knobs["spacing"], mode=("bilinear", "nearest")),
            ScaleIntensityRanged("image", -100, 240, 0, 1, clip=True),
            CropForegroundd(both, source_key="image", allow_smaller=True),
            EnsureTyped(both),
            RandCropByPosNegLabeld(both, "label", size, pos=1, neg=1, num_samples=CROPS, image_key="image"),
            RandFlipd(both, prob=0.1, spatial_axis=0),
            RandFlipd(both, prob=0.1, spatial_axis=1),
            RandFlipd(both, prob=0.1, spatial_axis=2),
            RandRotate90d(both, prob=0.1, max_k=3),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        ]
    )
    cases = [{key: str(case[key]) for key in both} for case in read_msd(data).cases[:iterations]]
    dataset = CacheDataset(cases, chain, cache_rate=1.0, num_workers=1, progress=False)
    network = SegResNetNL(init_filters=knobs["init_filters"])
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(dataset, batch_size=1, shuffle=True, num_workers=0),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), 2e-4),
        loss_function=_binary(DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, batch=True)),
        inferer=SimpleInferer(),
        amp=False,
    )
    return partial(one_more_epoch, trainer)


def ours(data: Path, knobs: Mapping[str, Any], iterations: int, way: str) -> Callable[[], None]:
    """A call that trains one epoch as `pancreas_nl` does."""
    with bundle_directory(BUNDLE):
        parser = read_config(config_files(BUNDLE, "train.json", ()))
    parser.update(
        {
            "dataset_dir": str(data),
            "output_dir": tempfile.mkdtemp(dir=data.parent),
            "split_file": str(data.parent / "split.json"),
            **{"test_cases": 1, "val_cases": 1, "val_interval": 1000, "warmup_epochs": 0, "num_workers": 0},
            **{"crops_per_case": CROPS, "iterations_per_epoch": iterations, "device": "cpu", "epochs": 100},
            **knobs,
            **WAYS[way],
        }
    )
    parser.parse()
    parser.get_parsed_content("initialize")
    trainer = parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.EPOCH_COMPLETED, trainer.terminate)  # the last of all epochs would be validated
    return trainer.run


def one_more_epoch(trainer: Any) -> None:
    """Run a trainer for an epoch."""
    trainer.run()
    trainer.state.max_epochs += 1


def _binary(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The loss of pancreas and tumour as one class."""
    return lambda logits, label: loss(logits, (label > 0).float())


def add_rates(report: Report, samples: int) -> str:
    """Give every row its samples per second, and say them."""
    for row in report.rows:
        row.comparison = {"samples per s": samples / row.median_s, **row.comparison}
    return "\n".join(f"{row.arm}: {row.comparison['samples per s']:.3g} samples per second" for row in report.rows)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--iterations", type=int, default=4, help="of an epoch (default: %(default)s)")
    parser.add_argument("--roi-size", type=int, default=64, help="side of a crop (default: %(default)s)")
    parser.add_argument("--init-filters", type=int, default=16)
    parser.add_argument("--spacing", type=float, nargs=3, default=(2.0, 2.0, 2.0), metavar="MM")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False, help="also compiled")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    size, filters, iterations = arguments.roi_size, arguments.init_filters, arguments.iterations
    knobs = {"roi_size": [size] * 3, "init_filters": filters, "spacing": list(arguments.spacing)}
    ways = [OURS, ON_DEVICE, BFLOAT16, *([COMPILED] if arguments.compile else [])]
    with tempfile.TemporaryDirectory() as temporary:
        data = write_phantom_dataset(Path(temporary, "phantoms"), cases=iterations + 2, seed=0)
        options = {"data": data, "knobs": knobs, "iterations": iterations}
        report = run_benchmark(
            "Training throughput",
            [Arm(STOCK, partial(stock, **options)), *(Arm(way, partial(ours, **options, way=way)) for way in ways)],
            baseline=STOCK,
            targets=[Target("", BFLOAT16, "speedup", 2)],
            description=DESCRIPTION.format(iterations=iterations, crops=CROPS, size=size, filters=filters, stock=STOCK),
            repeats=arguments.repeats,
            threads=arguments.threads,
        )
    print(add_rates(report, iterations * CROPS))
    if arguments.output is not None:
        report.save(arguments.output)


if __name__ == "__main__":
    main()
