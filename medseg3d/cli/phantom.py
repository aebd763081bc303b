"""`medseg3d phantom`: a data set of generated abdominal CTs, or of generated frames with polyps."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import numpy as np

from medseg3d.bundle_folders import bundle_folder, config_files, names_from_root
from medseg3d.data.msd import read_msd
from medseg3d.errors import UsageError
from medseg3d.phantoms.ct import write_phantom_dataset
from medseg3d.phantoms.polyps import write_polyp_phantoms
from medseg3d.reports.curves import save_figure
from medseg3d.reports.overlays import draw_labels
from medseg3d.volumes.reading import read_volume


def run(args: argparse.Namespace) -> int:
    """Write the data set and print what to do next."""
    return _write_polyps(args) if args.kind == "polyp" else _write_abdomens(args)


def _write_polyps(args: argparse.Namespace) -> int:
    for option in ("test_images", "spacing"):
        if getattr(args, option) is not None:
            found = "given with --kind polyp"
            raise UsageError("BAD_VALUE", f"--{option}", found, "--kind pancreas", "leave it out")
    cases = args.num_cases or 60
    folder = write_polyp_phantoms(args.output, cases, args.seed, overwrite=args.overwrite)
    print(f"{cases} frames (every tenth without a polyp): {folder}")
    print("next: " + _training_line("polyp_resunetpp", "data/phantom_polyps", args.output))
    return 0


def _write_abdomens(args: argparse.Namespace) -> int:
    cases = args.num_cases or 12
    test_images = 2 if args.test_images is None else args.test_images
    folder = write_phantom_dataset(
        args.output,
        cases,
        args.seed,
        test_images=test_images,
        spacing_mm=args.spacing,
        overwrite=args.overwrite,
    )
    dataset = read_msd(folder)
    case = dataset.cases[min(1, len(dataset.cases) - 1)]  # the second one has a tumour
    ct, header = read_volume(case["image"])
    label = read_volume(case["label"])[0].astype(np.uint8)
    title = f"{case['case']}: a generated phantom, not a patient"
    figure = draw_labels(ct, label, header.affine, dataset.labels, title)
    picture = save_figure(figure, folder / "planes.png")
    print(f"{cases} labelled and {test_images} unlabelled phantoms: {folder}")
    print(f"figure of {case['case']}: {picture}")
    print("next: " + _training_line("pancreas_nl", "data/phantom_pancreas", args.output))
    return 0


def _training_line(bundle: str, home: str, output: str) -> str:
    """The command that trains a bundle on the phantoms; `home` is where its overlay looks for them."""
    files = names_from_root(config_files(bundle_folder(bundle), "train.json", ["phantom"]))
    line = f'python -m monai.bundle run training --config_file "[{",".join(map(repr, files))}]"'
    return line if Path(output) == Path(home) else f"{line} --dataset_dir {shlex.quote(output)}"
