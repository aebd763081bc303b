"""`medseg3d phantom`: a data set of generated abdominal CTs."""

from __future__ import annotations

import argparse

HELP = "write a data set of generated abdominal CT phantoms in the MSD layout, and a picture of it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder and what varies; the size can be lowered for tests."""
    parser.add_argument("output", metavar="OUT", help="folder to write, for example data/phantom_pancreas")
    parser.add_argument("--cases", type=_positive, default=12, help="labelled volumes (default: %(default)s)")
    parser.add_argument("--test-images", type=_count, default=2, help="unlabelled volumes (default: %(default)s)")
    parser.add_argument("--seed", type=_count, default=0, help="same seed, same volumes (default: %(default)s)")
    parser.add_argument(
        "--spacing",
        type=_millimetres,
        nargs=3,
        metavar="MM",
        help="voxel size left-right, back-front, feet-head; by default about 2.6 2.6 5, different for every case",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the phantoms that are there")


def run(args: argparse.Namespace) -> int:
    """Write the data set and `planes.png`, and print what to do next."""
    import numpy as np

    from medseg3d.data.msd import read_msd
    from medseg3d.data.nifti import read_nifti
    from medseg3d.data.phantoms import write_phantom_dataset
    from medseg3d.reports.planes import three_planes

    folder = write_phantom_dataset(
        args.output,
        args.cases,
        args.seed,
        test_images=args.test_images,
        spacing_mm=args.spacing,
        overwrite=args.overwrite,
    )
    dataset = read_msd(folder)
    case = dataset.cases[min(1, len(dataset.cases) - 1)]  # the second one has a tumour
    ct, header = read_nifti(case["image"])
    label = read_nifti(case["label"])[0].astype(np.uint8)
    picture = three_planes(
        ct,
        header.affine,
        {"": label},
        folder / "planes.png",
        title=f"{case['case']}: a generated phantom, not a patient",
        label_names=dataset.labels,
    )
    print(f"{args.cases} labelled and {args.test_images} unlabelled phantoms: {folder}")
    print(f"picture of {case['case']}: {picture}")
    print("next: " + _training_line(args.output))
    return 0


def _training_line(output: str) -> str:
    line = (
        "python -m monai.bundle run training "
        "--config_file \"['bundles/pancreas_nl/train.json','bundles/pancreas_nl/phantom.json']\""
    )
    if output.rstrip("/") == "data/phantom_pancreas":  # where the overlay looks for it
        return line
    import shlex

    return f"{line} --dataset_dir {shlex.quote(output)}"


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be >= 0, got {value}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {value}")
    return value


def _millimetres(text: str) -> float:
    value = float(text)
    if not 0.5 <= value <= 20:  # finer ones take minutes and gigabytes
        raise argparse.ArgumentTypeError(f"must be 0.5 to 20 mm, got {value}")
    return value
