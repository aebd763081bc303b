"""MONAI dictionary transforms for what MONAI lacks: a checked load, an exact way back, and masks that fit their image.

They stand at the two ends of a chain of MONAI's own:

    LoadVolumed, ResampleVolumed, ... network ..., InvertToOriginald, SaveMaskd
    LoadVolumed, Orientationd, FitSlicesd, ... 2-D network ..., InvertToOriginald, SaveMaskd
    LoadPictured, ResizePictured, ... network ..., InvertToOriginald, SavePictureMaskd
"""

from medseg3d.transforms.loading import LoadPictured, LoadVolumed
from medseg3d.transforms.patches import SMALLEST_FILL, PadToPatchd, SlicesToChannelsd, check_patch_fill
from medseg3d.transforms.resampling import ResampleVolumed
from medseg3d.transforms.resizing import FitPictured, FitSlicesd, ResizePictured, resize_mask, resize_picture
from medseg3d.transforms.restoring import InvertToOriginald, LogitsToLabelsd, restore_labels
from medseg3d.transforms.saving import SaveMaskd, SaveOverlayd, SavePictureMaskd, SaveProbabilityd

__all__ = [
    "SMALLEST_FILL",
    "FitPictured",
    "FitSlicesd",
    "InvertToOriginald",
    "LoadPictured",
    "LoadVolumed",
    "LogitsToLabelsd",
    "PadToPatchd",
    "ResampleVolumed",
    "ResizePictured",
    "SaveMaskd",
    "SaveOverlayd",
    "SavePictureMaskd",
    "SaveProbabilityd",
    "SlicesToChannelsd",
    "check_patch_fill",
    "resize_mask",
    "resize_picture",
    "restore_labels",
]
