"""A network that is small enough for every test."""

from __future__ import annotations

import torch

from medseg3d.networks import SegResNetNL


def small_network(**options: int) -> SegResNetNL:
    torch.manual_seed(0)
    options = {"init_filters": 8, "nonlocal_blocks": 1, **options}
    return SegResNetNL(blocks_down=(1, 1, 1), blocks_up=(1, 1), **options).eval()
