"""NonLocalBlock against the same block with a stored N×N map: time and memory, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from harness import Arm, Target, argument_parser, run_benchmark
from torch import nn

from medseg3d.networks import NonLocalBlock

CHANNELS = 128  # the bottleneck of a SegResNet with 16 filters; the block's inner width is half of it
EDGES = (12, 16, 24)  # at 1/8 of the resolution, patches of 96, 128 and 192 voxels
STORED = "stored map"
OURS = "NonLocalBlock"


class StoredMapBlock(NonLocalBlock):
    """The same layers, with the map of all pairs written out: how the block is usually coded."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input plus its non-local mean, as NonLocalBlock gives it."""
        theta, phi, g = (conv(x).flatten(2) for conv in (self.theta, self.phi, self.g))  # (B, inner, N)
        weights = torch.softmax(theta.transpose(1, 2) @ phi, dim=-1)  # (B, N, N)
        mean = (weights @ g.transpose(1, 2)).transpose(1, 2)
        return x + self.out(mean.reshape(mean.shape[:2] + x.shape[2:]))


def make_call(block_type: type[NonLocalBlock], edge: int, backward: bool) -> Callable[[], np.ndarray]:
    """A call of the block on a cube of `edge`³ positions; gives the output, or the gradient of the input."""
    torch.manual_seed(0)
    block = block_type(spatial_dims=3, in_channels=CHANNELS, norm=None, act=None, scale=1.0)  # the paper's literal form
    nn.init.normal_(block.out.weight, std=0.1)
    x = torch.randn(1, CHANNELS, edge, edge, edge)

    def forward(x: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return block(x).numpy()

    def forward_and_backward(x: torch.Tensor) -> np.ndarray:
        block.zero_grad()
        x = x.detach().requires_grad_()
        block(x).square().sum().backward()
        return x.grad.numpy()

    call = forward_and_backward if backward else forward
    call(x[..., :2, :2, :2])  # what torch prepares once is no part of the block
    return partial(call, x)


def largest_difference(stored: np.ndarray, ours: np.ndarray) -> dict[str, float]:
    """The largest difference of two results, relative to the largest value of the first."""
    return {"largest difference": float(np.abs(stored - ours).max() / np.abs(stored).max())}


def main() -> None:
    """Run the benchmark from the command line."""
    arguments = argument_parser(__doc__).parse_args()
    arms = [
        Arm(name, partial(make_call, block_type, edge, backward), case=case_name(edge, backward))
        for backward in (False, True)
        for edge in EDGES
        for name, block_type in ((STORED, StoredMapBlock), (OURS, NonLocalBlock))
    ]
    run_benchmark(
        "NonLocalBlock versus a stored N x N map",
        arms,
        baseline=STORED,
        compare=largest_difference,
        targets=[
            Target(case_name(24, False), OURS, "speedup", 3),
            Target(case_name(24, False), OURS, "memory_saving", 40),
        ],
        description=(
            f"One block with {CHANNELS} channels and inner width {CHANNELS // 2}, batch 1, float32, on a cube of "
            "positions. At its peak the stored map exists twice, before and after the softmax, as in the usual "
            "implementation. *largest difference*: of the output, or with a backward pass of the gradient of the "
            "input, relative to its largest value. The machine was shared with other jobs: trust the ratios, not the "
            "seconds."
        ),
        **vars(arguments),
    )


def case_name(edge: int, backward: bool) -> str:
    """How a case is called in the table."""
    return f"{edge}³ forward" + (" + backward" if backward else "")


if __name__ == "__main__":
    main()
