"""Pictures with something bright in them, and runs of picture bundles in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from monai.bundle import ConfigWorkflow
from PIL import Image


def run_bundle(
    bundle: str, run_id: str, config: str, overlays: tuple[str, ...] = (), **knobs: object
) -> ConfigWorkflow:
    """What `python -m monai.bundle run` does, without the seconds that a process takes to start."""
    workflow = ConfigWorkflow(
        config_file=[f"bundles/{bundle}/{name}.json" for name in (config, *overlays)],
        workflow_type="train",
        run_id=run_id,
        logging_file=False,
        **knobs,
    )
    workflow.initialize()
    workflow.run()
    return workflow


def polyp_folder(folder: Path, cases: int = 6) -> Path:
    """Pictures of 48 x 64 pixels, or turned, with one reddish ellipse each, as JPEG, their masks as JPEG too."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(1, cases + 1):
        shape = (48, 64) if number % 2 else (64, 48)
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        row, column = rng.integers(16, 32, 2)
        mask = ((rows - row) / 8) ** 2 + ((columns - column) / 12) ** 2 < 1
        picture = rng.normal(90, 10, (*shape, 3)) + mask[..., None] * (100, 0, 0)
        for part, levels in (("images", picture), ("masks", np.repeat(255 * mask[..., None], 3, axis=-1))):
            Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(folder / part / f"{number}.jpg", quality=95)
    return folder
