"""Tensors in, logits out: the networks of the papers, each usable as `_target_` in a bundle."""

from medseg3d.networks.nonlocal_block import NonLocalBlock
from medseg3d.networks.segresnet_nl import SegResNetNL

__all__ = ["NonLocalBlock", "SegResNetNL"]
