"""What the loader alone gives: cases per second into the cache of a training, and samples per second out of it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Arm, Report, Target, argument_parser, run_benchmark
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader
from PIL import Image

from medseg3d.bundle import read_config
from medseg3d.bundle_folders import bundle_directory, config_files
from medseg3d.data.cache import CaseCache, CaseKey
from medseg3d.phantoms.polyps import write_polyp_phantoms
from medseg3d.training import EpochSampler

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
BEFORE = "before"
OURS = "ours"
DECODING = "decoding alone"
BATCHED = "augment_on device"
BATCH = 16
STOCK_CHAIN: dict[str, Any] = {
    "image_chain": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "medseg3d.transforms.LoadPictured", "keys": "@load_keys"},
            {
                "_target_": "Resized",
                "keys": "image",
                "spatial_size": "@picture_size",
                "mode": "bilinear",
                "anti_aliasing": True,
            },
        ],
    },
    "label_chain": {
        "_target_": "Resized",
        "keys": "label",
        "spatial_size": "@picture_size",
        "mode": "nearest-exact",
    },
}
"""How the polyp bundles brought pictures and masks to their size before."""


DESCRIPTION = (
    "*Into the cache*: from files to what a training keeps in memory, with {workers} threads; {cases} images with "
    "their masks through the transforms of `polyp_resunetpp`, {volumes} CTs through those of `pancreas_nl`. *before*: "
    "threads that wait for each other after every group of cases, and MONAI's `Resized` with antialiasing for 2-D "
    "images. *decoding alone*: both files of a case decoded by Pillow and discarded; nothing that reads JPEG can be "
    "faster. *Out of the cache*: {samples} augmented samples in batches, without loader workers. *before*: with "
    "MONAI's record of every transform in the metadata, and new random states for every sample. *augment_on device*: "
    "one batch at a time, the device being the CPU. *largest difference*: from *before*, of the first four cases or "
    "the first batch; images are in [0, 1], or augmented from there. The machine was shared with other jobs: trust the "
    "ratios and the CPU time."
)


class InStep(CaseCache):
    """The cache as it was filled before: as many cases as threads, then the next lot."""

    def _fill_cache(self, indices: Any = None) -> list:
        kept: list = []
        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(self.data), self.workers):
                kept += pool.map(self._load_cache_item, range(start, min(start + self.workers, len(self.data))))
        return kept


def config_of(bundle: str, knobs: Mapping[str, Any]) -> ConfigParser:
    """The training of a bundle with some knobs set."""
    with bundle_directory(BUNDLES / bundle):
        parser = read_config(config_files(BUNDLES / bundle, "train.json", ()))
    parser.update(dict(knobs))
    return parser


def filling(bundle: str, knobs: Mapping[str, Any], cases: int, workers: int, arm: str) -> Callable[[], list[dict]]:
    """A call that fills the cache of a training, and gives its first cases."""
    logging.getLogger("medseg3d").setLevel(logging.ERROR)  # large polyps
    polyps = bundle.startswith("polyp")
    parser = config_of(bundle, {**knobs, **(STOCK_CHAIN if polyps and arm == BEFORE else {})})
    data, chain = training_cases(parser)[:cases], parser.get_parsed_content("train#preprocessing")
    cache = InStep if arm == BEFORE else CaseCache

    def call() -> list[dict]:
        filled = cache(data, chain, num_workers=workers)
        return [{key: np.asarray(item[key]) for key in ("image", "label")} for item in filled._cache[:4]]

    return call


def decoding(bundle: str, knobs: Mapping[str, Any], cases: int, workers: int) -> Callable[[], None]:
    """A call that decodes every picture and mask with Pillow and throws them away: the limit."""
    data = training_cases(config_of(bundle, knobs))[:cases]

    def decode(item: Mapping[str, str]) -> None:
        for key in ("image", "label"):
            with Image.open(item[key]) as image:
                image.load()

    def call() -> None:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(decode, data))

    return call


def training_cases(parser: ConfigParser) -> list[dict]:
    """The cases of the training set."""
    if "cases" in parser:
        return parser.get_parsed_content("cases")(part="train")
    data: list[dict] = parser.get_parsed_content("train#dataset#data")
    return data


class Recorded(CacheDataset):
    """Samples as they were drawn before: new random states, and MONAI's record in every tensor."""

    def __getitem__(self, key: CaseKey) -> Any:
        self.transform.set_random_state(seed=key.seed)
        return super().__getitem__(key.index)


def drawing(
    bundle: str, knobs: Mapping[str, Any], cases: int, samples: int, arm: str
) -> Callable[[], list[dict] | None]:
    """A call that draws batches from the full cache, without workers, and gives the first.

    Nothing where a batch is augmented at a time, whose draws are others.
    """
    logging.getLogger("medseg3d").setLevel(logging.ERROR)
    parser = config_of(bundle, {**knobs, "augment_on": "device" if arm == BATCHED else "loader"})
    on_device = parser.get_parsed_content("train#augmentation").on_device
    cache = CaseCache(training_cases(parser)[:cases], parser.get_parsed_content("train#preprocessing"))
    dataset: Any = cache
    if arm == BEFORE:
        dataset = Recorded(cache.data, cache.transform, cache_num=0, copy_cache=False, progress=False)
        dataset._cache, dataset.cache_num = cache._cache, len(cache)
    stream = EpochSampler(len(cache), BATCH, epochs=1, iterations_per_epoch=samples // BATCH)
    loader = DataLoader(dataset, batch_size=BATCH, sampler=stream, num_workers=0)

    def call() -> list[dict] | None:
        batches = [{key: batch[key] for key in ("image", "label")} for batch in loader]
        if on_device is not None:
            for number, batch in enumerate(batches):
                batches[number] = on_device(batch, seed=0, iteration=number)
            return None
        return [{key: np.asarray(torch.as_tensor(value)) for key, value in batch.items()} for batch in batches[:1]]

    return call


def differences(base: list[dict] | None, own: list[dict] | None) -> dict[str, float]:
    """How far what an arm gives is from what the baseline gives."""
    if base is None or own is None:
        return {}
    pairs = list(zip(base, own, strict=True))
    return {
        "largest difference of an image": max(float(np.abs(a["image"] - b["image"]).max()) for a, b in pairs),
        "differing labels": sum(int(np.count_nonzero(a["label"] != b["label"])) for a, b in pairs),
    }


def add_rates(report: Report, numbers: Mapping[str, int]) -> str:
    """Give every row of the report its cases or samples per second, and say them in lines of their own."""
    lines = []
    for row in report.rows:
        row.comparison = {
            "per s": numbers[row.case] / row.median_s,
            "CPU ms each": 1000 * row.median_cpu_s / numbers[row.case],
            **row.comparison,
        }
        lines.append(f"{row.case}: {row.arm}: {row.comparison['per s']:.3g} per second")
    return "\n".join(lines)


def data_sets(arguments: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """The folders of pictures by name: the one asked for, real ones, or generated on the spot."""
    if arguments.pictures is not None:
        return {arguments.pictures.name: arguments.pictures.resolve()}
    if arguments.phantom:
        write_polyp_phantoms(folder / "polyps", cases=arguments.cases + 2, seed=0)
        return {"generated": folder / "polyps"}
    data = os.environ.get("MEDSEG3D_DATA")
    if not data:
        sys.exit("MEDSEG3D_DATA names no folder of real images; set it, or run with --phantom")
    return {"Kvasir-SEG": Path(data, "kvasir-seg"), "CVC-ClinicDB": Path(data, "cvc-clinicdb")}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--cases", type=int, default=120, help="images of each data set (default: %(default)s)")
    parser.add_argument("--volumes", type=int, default=6, help="generated CTs, 0 for none (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=160, help="drawn from the cache (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="threads that fill (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="side lengths of the images")
    parser.add_argument("--phantom", action="store_true", help="generated images instead of real ones")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="this image data set instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        arms, numbers, targets = [], {}, []
        for name, pictures in data_sets(arguments, folder).items():
            for size in arguments.sizes:
                knobs = {
                    "dataset_dir": str(pictures),
                    "split_file": str(folder / f"{name}.json"),
                    "test_cases": 1,
                    "val_cases": 1,
                    "picture_size": [size, size],
                }
                case = f"into the cache: {name}, {size} x {size}"
                options = {"bundle": "polyp_resunetpp", "knobs": knobs, "cases": arguments.cases}
                fill = partial(filling, **options, workers=arguments.workers)
                arms += [Arm(arm, partial(fill, arm=arm), case) for arm in (BEFORE, OURS)]
                arms.append(Arm(DECODING, partial(decoding, **options, workers=arguments.workers), case))
                numbers[case] = arguments.cases
                targets.append(Target(case, OURS, "speedup", 3))
                targets.append(Target(case, OURS, "cpu_saving", 3))
            case = f"out of the cache: {name}, {size} x {size}"
            draw = partial(drawing, **options, samples=arguments.samples)
            arms += [
                Arm(BEFORE, partial(draw, arm=BEFORE), case),
                Arm(OURS, partial(draw, arm=OURS), case),
                Arm(BATCHED, partial(draw, arm=BATCHED), case),
            ]
            numbers[case] = arguments.samples
        if arguments.volumes:
            from medseg3d.phantoms.ct import write_phantom_dataset  # draws with SimpleITK

            write_phantom_dataset(folder / "volumes", cases=arguments.volumes + 2, seed=0)
            knobs = {
                "dataset_dir": str(folder / "volumes"),
                "split_file": str(folder / "volumes.json"),
                "test_cases": 1,
                "val_cases": 1,
            }
            case = f"into the cache: {arguments.volumes} generated CTs"
            fill = partial(filling, "pancreas_nl", knobs, arguments.volumes, arguments.workers)
            arms += [Arm(arm, partial(fill, arm=arm), case) for arm in (BEFORE, OURS)]
            numbers[case] = arguments.volumes
        report = run_benchmark(
            "Data loading alone",
            arms,
            baseline=BEFORE,
            compare=differences,
            targets=targets,
            repeats=arguments.repeats,
            threads=arguments.threads,
            description=DESCRIPTION.format(**vars(arguments)),
        )
    print(add_rates(report, numbers))
    if arguments.output is not None:
        report.save(arguments.output)


if __name__ == "__main__":
    main()
