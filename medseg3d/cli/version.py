"""`medseg3d version`: what a bug report or a methods section needs."""

from __future__ import annotations

import argparse
import platform

import torch

from medseg3d.training.evaluation import versions


def run(args: argparse.Namespace) -> int:
    """Print one `name version` per line, then the machine."""
    for name, version in versions().items():
        print(f"{name:16} {version}")
    print(f"{'machine':16} {platform.platform()}")
    print(f"{'CPU threads':16} {torch.get_num_threads()}")
    print(f"{'GPU':16} {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")
    return 0
