"""What one window of the pancreas network costs, by device, precision, memory layout and windows at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from harness import Arm, Report, argument_parser, run_benchmark

from medseg3d.networks import SegResNetNL
from medseg3d.networks.memory_format import channels_last

PLAIN = "float32"


class Way(NamedTuple):
    """How the network is run.

    Args:
        dtype: what is autocast to; None for float32.
        tf32: whether a GPU may round the factors of a float32 product to 10 bits.
        layout: whether memory is channels last.
    """

    dtype: torch.dtype | None = None
    tf32: bool = False
    layout: bool = False


ARMS: dict[str, dict[str, Way]] = {
    "cpu": {
        PLAIN: Way(),
        "float32, channels last": Way(layout=True),
        "bfloat16": Way(torch.bfloat16),
        "bfloat16, channels last": Way(torch.bfloat16, layout=True),
        "float16, channels last": Way(torch.float16, layout=True),
    },
    "cuda": {
        PLAIN: Way(),
        "tf32": Way(tf32=True),
        "tf32, channels last": Way(tf32=True, layout=True),
        "bfloat16, channels last": Way(torch.bfloat16, tf32=True, layout=True),
        "float16, channels last": Way(torch.float16, tf32=True, layout=True),
    },
}
"""Few, because a GPU's first calls are slow."""


def make_call(arm: str, device: str, edge: int, batch: int, passes: int, filters: int) -> Callable[[], np.ndarray]:
    """A call of the network on `passes` batches of windows, one after the other; gives the last labels."""
    way = ARMS[device][arm]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = way.tf32
    torch.manual_seed(0)
    network = SegResNetNL(init_filters=filters).eval()
    windows = torch.rand(batch, 1, edge, edge, edge)
    with torch.inference_mode():  # a bias with which both classes occur
        logits = network(torch.rand(1, 1, 32, 32, 32))[0]
        network.conv_final[2].conv.bias[1] += (logits[0] - logits[1]).median()
    network, windows = network.to(device), windows.to(device)
    if way.layout:
        network, windows = channels_last(network), channels_last(windows)

    def call() -> np.ndarray:
        with torch.inference_mode(), torch.autocast(device, way.dtype, enabled=way.dtype is not None):
            for _ in range(passes):
                logits = network(windows)
            return (logits[:, 1] > logits[:, 0]).cpu().numpy()  # .cpu() waits for a GPU

    call()  # what cuDNN and oneDNN choose once is no part of a window
    return call


def agreement(plain: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """How far the labels of an arm are from those of plain float32."""
    return {"foreground %": float(100 * plain.mean()), "differing labels, ppm": float(1e6 * np.mean(plain != own))}


def add_milliseconds(report: Report, windows: dict[str, int]) -> str:
    """Give every row of the report its milliseconds per window, and say them in lines of their own."""
    lines = []
    for row in report.rows:
        row.comparison = {"ms per window": 1000 * row.median_s / windows[row.case], **row.comparison}
        lines.append(f"{row.case}: {row.arm}: {row.comparison['ms per window']:.3g} ms per window")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--device", choices=ARMS, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--edge", type=int, default=96, help="voxels along each axis (default: %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="windows at a time (default: 1 4)")
    parser.add_argument("--passes", type=int, default=10, help="batches per call (default: %(default)s)")
    parser.add_argument("--filters", type=int, default=16, help="of the first level (default: %(default)s)")
    arguments = parser.parse_args()
    device, edge, passes = arguments.device, arguments.edge, arguments.passes
    cases = {batch: f"{batch} window{'s' * (batch > 1)} of {edge}³ at a time" for batch in arguments.batches}
    arms = [
        Arm(arm, partial(make_call, arm, device, edge, batch, passes, arguments.filters), case)
        for batch, case in cases.items()
        for arm in ARMS[device]
    ]
    name = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    report = run_benchmark(
        "One window of the pancreas network",
        arms,
        baseline=PLAIN,
        compare=agreement,
        repeats=arguments.repeats,
        threads=arguments.threads,
        description=(
            f"SegResNetNL with {arguments.filters} filters, two classes and random weights on {name}: from windows in "
            f"its memory to labels in CPU memory, {passes} batches per call. *tf32*: float32 with products that a GPU "
            "rounds; with the reduced precisions it applies to what stays float32. *differing labels*: compared with "
            "plain float32; random weights have borders everywhere, so this is a hard case. Memory is that of the CPU."
        ),
    )
    print(add_milliseconds(report, {case: passes * batch for batch, case in cases.items()}))
    if arguments.output is not None:
        report.save(arguments.output)


if __name__ == "__main__":
    main()
