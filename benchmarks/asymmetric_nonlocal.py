"""Attention to 110 pooled tokens against attention to every pixel, stored or in tiles: time and memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from harness import Arm, Report, Target, argument_parser, run_benchmark

from medseg3d.networks.asymmetric_nonlocal import PyramidPool, TokenAttention
from medseg3d.networks.memory_format import channels_last

CHANNELS = 256  # of queries, keys and values, in both blocks of AsymmetricNonLocalNet
MAPS = ((44, 44), (64, 64), (64, 128))  # an eighth of 352 x 352, 512 x 512 and the bundle's 512 x 1024
LARGEST = (128, 256)  # where the paper of the asymmetric block measures
CHECKED = 64  # pixels whose result is computed once more, in float64

STORED = "stored map"
TILED = "SDPA, every pixel"
POOLED_SDPA = "pooled, SDPA"
POOLED_BY_TORCH = "pooled by torch, products"
POOLED = "pooled, products"

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Checked(NamedTuple):
    """What an arm gave at some pixels, (channels, pixels), and what float64 gives from the same tokens."""

    result: np.ndarray
    expected: np.ndarray


def scaled_dot_product(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`TokenAttention` by torch's own function, its last dimension contiguous as its fast path demands."""
    heads = [each.transpose(1, 2).contiguous()[:, None] for each in (query.flatten(2), key, value)]
    attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2])[:, 0]
    return attended.transpose(1, 2).reshape(query.shape)


def every_pixel(x: torch.Tensor) -> torch.Tensor:
    """Tokens (B, C, H W) of a map."""
    return x.flatten(2)


def adaptive_pool(x: torch.Tensor) -> torch.Tensor:
    """The tokens of `PyramidPool` by torch's adaptive average pooling."""
    return torch.cat([F.adaptive_avg_pool2d(x, cells).flatten(2) for cells in (1, 3, 6, 8)], 2)


ARMS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Attention]] = {
    STORED: (every_pixel, TokenAttention()),
    TILED: (every_pixel, scaled_dot_product),
    POOLED_SDPA: (PyramidPool(), scaled_dot_product),
    POOLED_BY_TORCH: (adaptive_pool, TokenAttention()),
    POOLED: (PyramidPool(), TokenAttention()),
}
"""How an arm makes tokens of the maps of keys and values, and how it attends to them."""


def make_call(arm: str, size: tuple[int, int], backward: bool) -> Callable[[], Checked]:
    """A call from the maps of queries, keys and values to the output, or to the gradients of all three."""
    tokens, attention = ARMS[arm]
    generator = torch.Generator().manual_seed(0)
    maps = [channels_last(torch.randn(1, CHANNELS, *size, generator=generator)) for _ in range(3)]
    maps[0] *= 4  # some likenesses are large, as a trained network has them
    pixels = torch.arange(0, size[0] * size[1], max(1, size[0] * size[1] // CHECKED))
    expected = in_double(maps, tokens, pixels, backward)

    def forward() -> Checked:
        with torch.inference_mode():
            query, key, value = maps
            attended = attention(query, tokens(key), tokens(value))
        return Checked(attended.flatten(2)[0][:, pixels].numpy(), expected)

    def forward_and_backward() -> Checked:
        query, key, value = (each.detach().requires_grad_() for each in maps)
        attention(query, tokens(key), tokens(value)).square().sum().backward()
        assert query.grad is not None
        return Checked(query.grad.flatten(2)[0][:, pixels].numpy(), expected)

    return forward_and_backward if backward else forward


def in_double(
    maps: list[torch.Tensor], tokens: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor, backward: bool
) -> np.ndarray:
    """The output, or the gradient of the queries, at some pixels: an explicit softmax in float64."""
    query = maps[0].flatten(2)[0][:, pixels].double().requires_grad_(backward)
    key, value = (tokens(each.double())[0] for each in maps[1:])
    attended = value @ torch.softmax(key.t() @ query / CHANNELS**0.5, 0)
    if backward:
        (gradient,) = torch.autograd.grad(attended.square().sum(), query)
        return gradient.numpy()
    return attended.numpy()


def largest_difference(_: Checked, own: Checked) -> dict[str, float]:
    """How far an arm is from float64 with its own tokens, relative to the largest value."""
    return {"error": float(np.abs(own.result - own.expected).max() / np.abs(own.expected).max())}


def case_name(size: tuple[int, int], backward: bool) -> str:
    """How a case is called in the table."""
    return f"{size[0]}×{size[1]} forward" + (" + backward" if backward else "")


def verdict(report: Report) -> str:
    """The two ways to attend to pooled tokens, by the processor's seconds: per case, then step and inference added."""
    seconds = {(row.case, row.arm): row.cpu_seconds for row in report.rows}

    def ratio(cases: list[str]) -> str:
        rounds = zip(
            *(seconds[case, POOLED_SDPA] for case in cases), *(seconds[case, POOLED] for case in cases), strict=True
        )
        ratios = [sum(each[: len(cases)]) / max(sum(each[len(cases) :]), 1e-9) for each in rounds]
        return f"{statistics.median(ratios):.2f}"

    sizes = [size for size in (*MAPS, LARGEST) if (case_name(size, False), POOLED) in seconds]
    lines = []
    for size in sizes:
        cases = [case for case in (case_name(size, False), case_name(size, True)) if (case, POOLED) in seconds]
        each = [f"{case.split(maxsplit=1)[1]} {ratio([case])}" for case in cases]
        lines.append(
            f"{size[0]}×{size[1]}: " + ", ".join(each + ([f"both together {ratio(cases)}"] if len(cases) > 1 else []))
        )
    return (
        f"CPU time of *{POOLED_SDPA}* divided by that of *{POOLED}*, median over the rounds; above 1 the products are "
        "faster. " + "; ".join(lines) + "."
    )


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--largest",
        action="store_true",
        help=f"also {LARGEST[0]} x {LARGEST[1]}, forward, whose stored map needs 9 GiB and minutes",
    )
    arguments = parser.parse_args()
    cases = [(size, backward) for backward in (False, True) for size in MAPS]
    cases += [(LARGEST, False)] if arguments.largest else []
    report = run_benchmark(
        "Attention to pooled tokens versus attention to every pixel",
        [
            Arm(name, partial(make_call, name, size, backward), case=case_name(size, backward))
            for size, backward in cases
            for name in ARMS
        ],
        baseline=STORED,
        compare=largest_difference,
        targets=[
            Target(case_name(LARGEST, False), POOLED, "speedup", 6),
            Target(case_name(LARGEST, False), POOLED, "memory_saving", 28),
        ]
        if arguments.largest
        else [],
        repeats=arguments.repeats,
        threads=arguments.threads,
        description=(
            f"From query, key and value maps of {CHANNELS} channels each (batch 1, float32, channels last, generated "
            "with seed 0) to the output in inference mode, or to the gradients of all three. "
            f"*{STORED}*: softmax over all pairs, stored as a matrix. *{TILED}*: scaled_dot_product_attention. "
            f"*pooled*: keys and values averaged to 110 tokens first; *{POOLED}* is the code of AsymmetricNonLocalNet. "
            "The surrounding 1×1 convolutions are the same in all arms and not measured. *error*: largest difference "
            f"from a float64 softmax with the same tokens at about {CHECKED} pixels, of the output or of the gradient "
            "of the queries, relative to the largest value. The targets are what the paper of the asymmetric block "
            "(Zhu et al. 2019) states for its whole block on a GPU. The machine was shared with other jobs: trust the "
            "ratios, not the seconds."
        ),
    )
    report.description += "\n\n" + verdict(report)
    print(verdict(report))
    if arguments.output is not None:
        report.save(arguments.output)


if __name__ == "__main__":
    main()
