"""Trainings, alone or as one of two processes: `several_processes.py FOLDER` runs all in `TRAININGS` as the two."""

from __future__ import annotations

import json
import math
import os
import socket
import sys
from pathlib import Path

import torch
import torch._dynamo  # as the first optimizer would, in each process
import torch.distributed as dist
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.losses import DiceCELoss
from monai.transforms import Compose, RandAffined, RandFlipd, RandGaussianNoised
from torch import nn

from medseg3d import ranks
from medseg3d.data.cache import CaseCache
from medseg3d.training import (
    BatchAugmentation,
    BestModel,
    CaseScores,
    EpochSampler,
    SegmentationTrainer,
    Validation,
    WeightAverage,
    attach_checkpoints,
    attach_tensorboard,
    freeze_parameters,
    parameter_groups,
)
from medseg3d.transforms import LogitsToLabelsd

TRAININGS: tuple[tuple[str, dict], ...] = (
    ("whole", {"epochs": 4}),
    ("resumed", {"epochs": 2}),
    ("resumed", {"epochs": 4, "resume": True}),
    ("spoiled", {"epochs": 2, "spoiled": True}),
    ("frozen", {"epochs": 2, "frozen": True}),
    ("augmented", {"epochs": 4, "resume": True, "augmented": True}),  # what one process has begun
)
"""Name of the folder, and what `train` is called with; one start of two processes for all of them."""


def cases(spoiled: bool) -> list[dict]:
    """Six images, the last of them not finite if wanted."""
    generator = torch.Generator().manual_seed(7)
    items = []
    for number in range(6):
        image = torch.rand(1, 16, 16, generator=generator)
        label = (image > 0.6).to(torch.uint8)
        if spoiled and number == 5:
            image[0, 0, 0] = math.nan
        items.append({"case": str(number), "image": image, "label": label})
    return items


def train(
    folder: Path,
    epochs: int,
    resume: bool = False,
    spoiled: bool = False,
    frozen: bool = False,
    augmented: bool = False,
) -> None:
    """Train and leave what this process knows at the end in `rank_N.json` and `rank_N.pt`.

    If wanted, the first convolution is frozen and the last bias learns more slowly, or batches are augmented.
    """
    folder.mkdir(exist_ok=True)
    device = ranks.join_processes() if dist.is_torchelastic_launched() else torch.device("cpu")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 1, 1))
    freeze_parameters(network, "0" if frozen else ())
    optimizer = torch.optim.SGD(parameter_groups(network, 0.5, {"3.bias": 0.1} if frozen else {}), momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    stream = EpochSampler(num_cases=6, batch_size=4, epochs=epochs, iterations_per_epoch=3, seed=0)
    data = CaseCache(cases(spoiled), Compose([]), num_workers=0)
    evaluator = SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(Dataset(cases(False)), batch_size=1),
        network=network,
        postprocessing=LogitsToLabelsd("pred"),
        key_val_metric={"val_dice_mean": CaseScores(["polyp"], prefix="val_", grid="a test's")},
    )
    best = BestModel(network, folder / "model.pt")
    best.attach(evaluator)
    both = ["image", "label"]
    turn = RandAffined(both, prob=0.5, rotate_range=0.5, mode=["bilinear", "nearest"])
    random = [RandFlipd(both, 0.5, 0), turn, RandGaussianNoised("image", 0.5)]
    trainer = SegmentationTrainer(
        device=device,
        max_epochs=epochs,
        train_data_loader=DataLoader(data, batch_size=ranks.share_of_batch(4), sampler=stream),
        network=network,
        optimizer=optimizer,
        loss_function=DiceCELoss(sigmoid=True),
        micro_batch_size=1,
        augmentation=BatchAugmentation(random) if augmented else None,
        train_handlers=[Validation(evaluator, 1)],
        max_skipped_steps=100,
    )
    losses: list[float] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda each: losses.append(each.state.output["loss"].item()))
    average = WeightAverage(network, 0.5)
    attach_checkpoints(trainer, best, stream, schedule, folder, resume, average)
    attach_tensorboard(trainer, evaluator, folder, images=0)
    trainer.run()
    state = {
        **network.state_dict(),
        **{f"average.{name}": value for name, value in average.network.state_dict().items()},
    }
    torch.save(state, folder / f"rank_{ranks.rank()}.pt")
    known = {"losses": losses, "best": best.state_dict(), "skipped": trainer.skipped_steps, "n": ranks.world_size()}
    (folder / f"rank_{ranks.rank()}.json").write_text(json.dumps(known))


def become_two() -> int:
    """Be two processes from here on, in the environment that torchrun gives them; 0 in the second.

    What is imported is imported once, which takes longer than all trainings.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test")
    os.environ.update(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    second = os.fork()
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if second else "1"
    return second


if __name__ == "__main__":
    other = become_two()
    for name, options in TRAININGS:
        train(Path(sys.argv[1]) / name, **options)
        dist.barrier()  # until the first process has written what the next training may resume
    if other:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
