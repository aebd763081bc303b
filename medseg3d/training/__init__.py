"""Training: the only floor that knows epochs, optimizers and checkpoints."""

from medseg3d.training.checkpoints import (
    BestModel,
    EarlyStop,
    RunCheckpoint,
    Validation,
    attach_checkpoints,
    claim_run_folder,
)
from medseg3d.training.evaluation import CaseScores, ScoreFiles
from medseg3d.training.losses import AuxiliaryLoss, PixelCrossEntropy
from medseg3d.training.pretrained import with_pretrained_encoder
from medseg3d.training.progress import attach_progress_bar, attach_tensorboard
from medseg3d.training.stream import CaseStream
from medseg3d.training.trainer import SegmentationTrainer

__all__ = [
    "AuxiliaryLoss",
    "BestModel",
    "CaseScores",
    "CaseStream",
    "EarlyStop",
    "PixelCrossEntropy",
    "RunCheckpoint",
    "ScoreFiles",
    "SegmentationTrainer",
    "Validation",
    "attach_checkpoints",
    "attach_progress_bar",
    "attach_tensorboard",
    "claim_run_folder",
    "with_pretrained_encoder",
]
