"""What float32, bfloat16 and float16 cost on this processor, in training and inference, and what `auto` chooses here.

oneDNN, which convolves for torch, can be kept from instructions that a processor has (ONEDNN_MAX_CPU_ISA): so one
machine with AMX also shows what bfloat16 would cost without.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from harness import Arm, argument_parser, run_benchmark
from torch import nn

from medseg3d.networks import ResUNetPlusPlus, SegResNetNL
from medseg3d.networks.memory_format import channels_last
from medseg3d.precision import Precision, choose_precision

BASELINE = "float32"
ARMS: dict[str, tuple[str, str]] = {
    BASELINE: ("float32", ""),
    "bfloat16": ("bfloat16", ""),
    "bfloat16, no AMX": ("bfloat16", "AVX512_CORE_BF16"),
    "bfloat16, no AVX512-BF16": ("bfloat16", "AVX512_CORE"),
    "float16": ("float16", ""),
}
"""Precision, and the instructions that oneDNN may use at most; none: all that the processor has."""


SLOW = "float16"
"""The arm that is left out of training: on CPUs oneDNN has only its reference code for the backward pass."""


class Case(NamedTuple):
    """A network and its input.

    Args:
        network: makes it.
        shape: of a batch.
    """

    network: Callable[[], nn.Module]
    shape: tuple[int, ...]


CASES = {
    "pancreas_nl, a window of 64x64x64": Case(
        partial(SegResNetNL, spatial_dims=3, init_filters=16, in_channels=1, out_channels=2), (1, 1, 64, 64, 64)
    ),
    "pancreas_nl_2d, 2 slices of 128x128": Case(
        partial(SegResNetNL, spatial_dims=2, init_filters=32, in_channels=3, out_channels=2), (2, 3, 128, 128)
    ),
    "polyp_resunetpp, 2 images of 128x128": Case(ResUNetPlusPlus, (2, 3, 128, 128)),
}


def work(case: str, arm: str, training: bool) -> Callable[[], float]:
    """A call that does one step of training, or one forward pass, and gives the sum of the logits or the loss."""
    name, instructions = ARMS[arm]
    if instructions:
        os.environ["ONEDNN_MAX_CPU_ISA"] = instructions  # before oneDNN first looks
    precision = Precision(name)
    torch.manual_seed(0)
    network, images = channels_last(CASES[case].network()), channels_last(torch.rand(CASES[case].shape))
    optimizer, scaler = torch.optim.AdamW(network.parameters(), lr=1e-4), precision.scaler("cpu")

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast("cpu"):
            logits = network(images)
        loss = logits.float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    def forward() -> float:
        with torch.inference_mode(), precision.autocast("cpu"):
            return network(images).float().sum().item()

    network.train(training)
    return step if training else forward


def main() -> None:
    """Run the benchmark from the command line."""
    arguments = argument_parser(__doc__).parse_args()
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    has = [
        name for name in ("avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16") if found.get(name)
    ]
    chosen = choose_precision("auto", "cpu")
    run_benchmark(
        "Precision on a CPU",
        [
            Arm(arm, partial(work, case, arm, training), f"{case}, {'training' if training else 'inference'}")
            for case in CASES
            for training in (True, False)
            for arm in ARMS
            if not (training and arm == SLOW)
        ],
        baseline=BASELINE,
        description=(
            "Training: forward, loss, backward and a step of AdamW; inference: a forward pass in eval mode. Random "
            "weights and input, channels last, as in the bundles. *bfloat16*, *float16*: autocast, float16 with loss "
            "scaling; float16 is left out in training, because a step takes minutes on a CPU. *no AMX*, "
            "*no AVX512-BF16*: oneDNN may not use these instructions (ONEDNN_MAX_CPU_ISA), as on a processor without "
            "them; what torch itself computes between the convolutions is unchanged. "
            f"This processor ({found.get('cpu_name', 'unknown')}) has {', '.join(has) or 'none of them'}; "
            f"`--precision auto` is {chosen} here: {chosen.reason}. The machine was shared with other jobs: trust the "
            "ratios, and those of CPU time more."
        ),
        **vars(arguments),
    )


if __name__ == "__main__":
    main()
