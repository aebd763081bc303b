"""Make a data set in the MSD layout out of single volumes and labels, by links to the files.

    python scripts/msd_folder.py data/nih_pancreas image_0001.nii.gz label_0001.nii.gz [more pairs ...]

The files stay where they are; `dataset.json`, `imagesTr/` and `labelsTr/` are made in the new folder.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from medseg3d.data.msd import case_id
from medseg3d.errors import UsageError, UserError


def make_folder(folder: Path, pairs: list[tuple[Path, Path]], labels: dict[str, str]) -> None:
    """Link the pairs into `folder` under the image's name."""
    for image, label in pairs:
        for path in (image, label):
            if not path.is_file():
                raise UsageError("MISSING_FILE", path, "no such file", "a NIfTI volume")
    entries = []
    for image, label in pairs:
        name = f"{case_id(image)}.nii.gz" if image.suffix == ".gz" else f"{case_id(image)}.nii"
        for part, source in (("imagesTr", image), ("labelsTr", label)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            os.symlink(source.absolute(), folder / part / name)
        entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    content = {
        "name": folder.name,
        "labels": labels,
        "numTraining": len(pairs),
        "numTest": 0,
        "training": entries,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder")
    parser.add_argument("files", type=Path, nargs="+", help="image label [image label ...]")
    args = parser.parse_args()
    if args.folder.exists() or len(args.files) % 2:
        parser.error(f"{args.folder} exists" if args.folder.exists() else "files must come in pairs: image label")
    try:
        pairs = list(zip(args.files[::2], args.files[1::2], strict=True))
        make_folder(args.folder, pairs, {"0": "background", "1": "pancreas", "2": "tumour"})
    except UserError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
