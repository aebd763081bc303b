"""Training: the only package that knows epochs, optimizers and checkpoints."""

from medseg3d.training.augmentation import RandPhotometricd, RandVariedCropd
from medseg3d.training.averaging import WeightAverage
from medseg3d.training.batch_augmentation import Augmentation, BatchAugmentation
from medseg3d.training.checkpoints import (
    BestModel,
    EarlyStop,
    LastModel,
    RunCheckpoint,
    Validation,
    attach_checkpoints,
    claim_run_folder,
    model_saver,
)
from medseg3d.training.evaluation import CaseScores, ScoreFiles
from medseg3d.training.losses import (
    AlternatingObjectives,
    AuxiliaryLoss,
    BinaryCrossEntropy,
    FinalLoss,
    Objective,
    PixelCrossEntropy,
    ProbabilityError,
)
from medseg3d.training.parameter_groups import freeze_parameters, learning_rate_factor, parameter_groups
from medseg3d.training.pretrained import with_initial_weights, with_pretrained_encoder
from medseg3d.training.progress import attach_progress_bar, attach_tensorboard
from medseg3d.training.sampler import EpochSampler
from medseg3d.training.trainer import Handlers, SegmentationTrainer

__all__ = [
    "AlternatingObjectives",
    "Augmentation",
    "AuxiliaryLoss",
    "BatchAugmentation",
    "BestModel",
    "BinaryCrossEntropy",
    "CaseScores",
    "EarlyStop",
    "EpochSampler",
    "FinalLoss",
    "Handlers",
    "LastModel",
    "Objective",
    "PixelCrossEntropy",
    "ProbabilityError",
    "RandPhotometricd",
    "RandVariedCropd",
    "RunCheckpoint",
    "ScoreFiles",
    "SegmentationTrainer",
    "Validation",
    "WeightAverage",
    "attach_checkpoints",
    "attach_progress_bar",
    "attach_tensorboard",
    "claim_run_folder",
    "freeze_parameters",
    "learning_rate_factor",
    "model_saver",
    "parameter_groups",
    "with_initial_weights",
    "with_pretrained_encoder",
]
