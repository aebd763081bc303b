"""The processes that train one network together, as torchrun starts them, and which of them this one is.

Every process has the same weights and takes its share of each batch; the gradients are averaged, so that the step is
that of the whole batch. What is written to disk is written by the first process, rank 0.
"""

from __future__ import annotations

import atexit
import os

import torch
import torch.distributed as dist

from medseg3d.errors import UsageError

_COMMAND = (
    "torchrun --standalone --nproc_per_node=2 -m monai.bundle run training --config_file "
    "\"['bundles/pancreas_nl/train.json','bundles/pancreas_nl/multi_gpu_train.json']\""
)


def world_size() -> int:
    """How many processes train together; 1 before they have joined, and where there is one alone."""
    return dist.get_world_size() if _joined() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if _joined() else 0


def local_world_size() -> int:
    """How many of them share this machine and its memory."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _joined() else 1


def join_processes() -> torch.device:
    """The device of this process, once all that torchrun started have joined: its GPU by NCCL, or the CPU by gloo.

    Raises:
        UserError: `TORCHRUN` when torchrun did not start this process; `DEVICE` when it has no GPU of its own.
    """
    if not dist.is_torchelastic_launched():
        raise UsageError(
            "TORCHRUN", "multi_gpu_train.json", "a single process", "several processes", f"start it with {_COMMAND}"
        )
    local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if gpus and local >= gpus:
        this = f"process {local + 1} of {os.environ['LOCAL_WORLD_SIZE']} on this machine"
        raise UsageError("DEVICE", this, f"{gpus} GPUs", "a GPU for each process", f"--nproc_per_node={gpus}")
    if gpus:
        torch.cuda.set_device(local)
    if not _joined():
        dist.init_process_group("nccl" if gpus else "gloo")
        atexit.register(dist.destroy_process_group)
    return torch.device("cuda", local) if gpus else torch.device("cpu")


def refuse_stray_process() -> None:
    """Refuse to be one of several processes that know nothing of each other and would write over each other's files.

    Raises:
        UserError: `TORCHRUN`.
    """
    if dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1 and not _joined():
        this = f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"
        found = "a config for a single process, or --device, which puts every process on the same device"
        remedy = f"add the bundle's multi_gpu_train.json: {_COMMAND}"
        raise UsageError("TORCHRUN", this, found, "processes that train together", remedy)


def share_of_batch(batch_size: int) -> int:
    """How many cases of each batch this process takes.

    Raises:
        UserError: `BAD_VALUE` when the processes cannot share it evenly.
    """
    share, rest = divmod(batch_size, world_size())
    if rest:
        wanted = f"a multiple of the {world_size()} processes, which share it"
        remedy = f"--batch_size {(share + 1) * world_size()}"
        raise UsageError("BAD_VALUE", "--batch_size", str(batch_size), wanted, remedy)
    return share


def agreed(value: object) -> object:
    """The value that rank 0 has, in every process: numbers on which they have to decide alike."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over the processes, in every process; changed in place."""
    if world_size() > 1:
        dist.all_reduce(value)
        value /= world_size()
    return value


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
