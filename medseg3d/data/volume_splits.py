"""The split of a data set of volumes: the one that its own list has, else one by the rule."""

from __future__ import annotations

from pathlib import Path

from medseg3d.data.msd import MSDDataset, read_msd
from medseg3d.data.splits import PARTS, Split, given_split, load_or_make_split, write_split
from medseg3d.errors import UsageError


def split_cases(
    dataset_dir: str | Path,
    split_file: str | Path,
    part: str,
    test_cases: int = 24,
    val_cases: int = 26,
    seed: int = 0,
    mask_dir: str | Path | None = None,
) -> list[dict[str, str]]:
    """The cases of one part of a data set: `{"case": id, "image": path, "label": path}`, sorted by id.

    This is what the bundles call. The split file is written on first use, see `split_of_volumes`. `part` is "train",
    "val" or "test". With a `mask_dir` each case gets a `"mask_file"` in that folder, `<id>_seg.nii.gz`.

    This is what the bundles call. The split file is written on first use, see `split_of_volumes`.

    Raises:
        ValueError: unknown part.
        UserError: as `read_msd` and `split_of_volumes`.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, got {part!r}")
    dataset = read_msd(dataset_dir)
    split = split_of_volumes(dataset, split_file, test_cases, val_cases, seed)
    wanted = set(getattr(split, part))
    chosen = [case for case in dataset.cases if case["case"] in wanted]
    if mask_dir is None:
        return chosen
    return [{**case, "mask_file": str(Path(mask_dir) / f"{case['case']}_seg.nii.gz")} for case in chosen]


def split_of_volumes(
    dataset: MSDDataset,
    split_file: str | Path,
    test_cases: int | float | None,
    val_cases: int | float | None,
    seed: int,
) -> Split:
    """The split in the split file if there is one, else that of the data set's own lists, else one by the rule.

    What is new is written there. A list of test cases is the test part; with a list of validation cases as well nothing
    is drawn, and `test_cases` and `val_cases` are not used.

    Raises:
        UserError: as `load_or_make_split`; BAD_VALUE for lists of several folds, of which `medseg3d data split` takes
            one.
    """
    path = Path(split_file)
    if not path.exists():
        if dataset.folds:
            found, source = f"the folds {', '.join(map(str, dataset.folds))}", dataset.source
            command = f"medseg3d data split {source} --from {source} --fold {dataset.folds[0]} --output {path}"
            remedy = f"`{command}` writes the split file"
            raise UsageError("BAD_VALUE", source, found, "one of them as the validation set", remedy)
        if dataset.parts["val"]:
            write_split(path, given_split(dataset.parts, dataset.source), dataset.name)
    test = dataset.parts["test"] if dataset.parts["test"] and not dataset.parts["val"] else test_cases
    return load_or_make_split(path, dataset.ids, test, val_cases, seed, dataset.name)


def default_split_file(dataset_dir: str | Path, seed: int = 0) -> Path:
    """Where the split file of a data set lies if nobody says otherwise; `pancreas_nl/train.json` looks there too.

    Example:
        >>> default_split_file("data/Task07_Pancreas").as_posix()
        'data/splits/Task07_Pancreas_seed0.json'
    """
    return Path("data") / "splits" / f"{Path(dataset_dir).absolute().name}_seed{seed}.json"
