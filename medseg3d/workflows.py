"""What the command line does with a bundle, for use from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg3d.bundle import absolute_paths, bundle_directory, bundle_folder, config_files, read_config
from medseg3d.inferers import CasePredictor, Report


def predict(
    bundle: str | Path,
    inputs: Sequence[str | Path] | str | Path,
    output_dir: str | Path,
    *,
    overwrite: bool = False,
    overlays: Sequence[str] = (),
    knobs: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, dict], None] | None = None,
) -> Report:
    """Segment volumes with a bundle's inference.json; masks in the geometry of each volume come out.

    The current directory is the bundle's repository while this runs, because the configs' paths start there.

    Args:
        bundle: the bundle's folder.
        inputs: NIfTI files and folders of them.
        output_dir: where the masks go, `<name>_seg.nii.gz` each.
        overwrite: segment again what has a mask already.
        overlays: overlays beside inference.json that the training had, without `.json`.
        knobs: further knobs (`model_file`, `device`, `overlap`, ...); paths from the current directory.
        progress: called with (number, total, item) before each case.

    Returns:
        What was done, skipped and failed. A scan that cannot be used does not stop the others.

    Raises:
        Fault: before anything is computed: no input, colliding names, no weights or another network's, misspelt knobs.
    """
    folder = bundle_folder(bundle)
    inputs = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    overrides = absolute_paths(knobs or {})
    overrides |= {
        "inputs": [str(Path(path).absolute()) for path in inputs],
        "mask_dir": str(Path(output_dir).absolute()),
        "overwrite": overwrite,
    }
    files = config_files(folder, "inference.json", overlays)
    with bundle_directory(folder):
        parser = read_config(files, overrides)
        parser.parse()
        predictor: CasePredictor = parser.get_parsed_content("evaluator")
        predictor.progress = progress
        return predictor.run()
