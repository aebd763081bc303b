"""Turn a run's best model into the weights that a bundle ships: float16, safetensors, with its SHA-256.

python scripts/ship_weights.py runs/polyp_resunetpp bundles/polyp_resunetpp/models/kvasir_clinicdb128.safetensors

The header keeps where they come from: the knobs of the run, and the SHA-256 of the model they were halved from.
With `--any-size` the file may be larger than a bundle's: to carry weights from one machine to another.
Statistics of BatchNorm stay float32, because a variance can exceed what float16 holds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch

from medseg3d.errors import UsageError, UserError
from medseg3d.files.atomic import atomic_write
from medseg3d.files.tensors import read_tensors

LARGEST = 25 * 1024 * 1024
"""Bytes that a file of the repository may have."""

KEPT = (
    *("seed", "split_seed", "picture_size", "channel_mean", "channel_std", "batch_size", "learning_rate", "epochs"),
    *("in_channels", "init_filters", "nonlocal_blocks", "nonlocal_attention"),
)
"""Knobs that the header keeps, of those that the run has; paths of the machine are none of them."""


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a training")
    parser.add_argument("output", type=Path, help="the .safetensors file")
    parser.add_argument("--any-size", action="store_true", help=f"also above {LARGEST // 2**20} MiB")
    args = parser.parse_args()
    try:
        ship(args.run, args.output, args.any_size)
    except UserError as error:
        parser.exit(1, f"error: {error}\n")


def ship(run: Path, output: Path, any_size: bool = False) -> None:
    """Write `output` and `output.sha256` from `run/model.pt`; larger than a bundle's weights only with `any_size`."""
    model_file = run / "model.pt"
    state = {name: _half(name, tensor) for name, tensor in read_tensors(model_file).items()}
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    knobs = {key: config[key] for key in KEPT if key in config}
    origin = {"source_sha256": hashlib.sha256(model_file.read_bytes()).hexdigest(), "knobs": json.dumps(knobs)}
    content = safetensors.torch.save(state, metadata=origin)
    if len(content) > LARGEST and not any_size:
        raise UsageError("BAD_VALUE", model_file, f"{len(content)} bytes in float16", f"at most {LARGEST}")
    with atomic_write(output) as file:
        file.write(content)
    checksum = hashlib.sha256(content).hexdigest()
    with atomic_write(output.with_name(output.name + ".sha256"), "w") as file:
        file.write(f"{checksum}  {output.name}\n")
    print(f"{output}: {len(content)} bytes, sha256 {checksum}")


def _half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point() or ".running_" in name:
        return tensor.clone(memory_format=torch.contiguous_format)  # safetensors refuses what two names share
    half = tensor.half().contiguous()
    if not torch.isfinite(half).all():
        raise UserError("NON_FINITE", name, f"a weight of {tensor.abs().max():.3g}", "weights that float16 can hold")
    return half


if __name__ == "__main__":
    main()
