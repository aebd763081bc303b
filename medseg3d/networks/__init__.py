"""Tensors in, logits out: the networks of the papers, each usable as `_target_` in a bundle."""

from medseg3d.networks.asymmetric_nonlocal import AsymmetricNonLocalNet
from medseg3d.networks.crf import CRFasRNN, CRFRefined
from medseg3d.networks.deeplabv3plus import DeepLabV3Plus
from medseg3d.networks.nonlocal_block import NonLocalBlock
from medseg3d.networks.pretrained import PretrainedReport, load_pretrained
from medseg3d.networks.refinement import RefinedSegmenter
from medseg3d.networks.resunetpp import ResUNet, ResUNetPlusPlus
from medseg3d.networks.segnet import SegNet
from medseg3d.networks.segresnet_nl import SegResNetNL
from medseg3d.networks.umamba_enc import UMambaEnc
from medseg3d.networks.unets import unet, unet_plus_plus

__all__ = [
    "AsymmetricNonLocalNet",
    "CRFRefined",
    "CRFasRNN",
    "DeepLabV3Plus",
    "NonLocalBlock",
    "PretrainedReport",
    "RefinedSegmenter",
    "ResUNet",
    "ResUNetPlusPlus",
    "SegNet",
    "SegResNetNL",
    "UMambaEnc",
    "load_pretrained",
    "unet",
    "unet_plus_plus",
]
