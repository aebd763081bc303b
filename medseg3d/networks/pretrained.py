"""ImageNet weights into the encoders, whoever saved them: names matched, counted, and refused where they do not fit.

Nothing is downloaded. `medseg3d.files.tensors.read_tensors` reads the file, `load_pretrained` puts it into the encoder.

- `DilatedResNet50`: torchvision's `resnet50-*.pth` and timm's `resnet50` (`layer1.0.conv1.weight`, ..., `fc.*`), and
  checkpoints of mmsegmentation and mmpretrain with the plain stem (the same names after `backbone.`).
- `DilatedSEResNeXt50`: Cadene's `se_resnext50_32x4d-*.pth` and timm's `legacy_seresnext50_32x4d`
  (`layer0.conv1.weight`, `se_module`, `downsample`, ..., `last_linear.*`).

Names cannot tell everything. Weights in Caffe's style (stride in the first 1x1 convolution, BGR) have the names and
shapes of torchvision's and give other maps, and so does another normalisation than the one they were trained with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from medseg3d.errors import UserError

LEAST_MATCHED = 0.95
"""Share of the encoder's tensors that a file has to fill."""

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_CLASSIFIERS = ("fc.", "last_linear.", "head.", "classifier.")
_COUNTER = "num_batches_tracked"  # files from before PyTorch 0.4.1 have none, and no prediction depends on it
_ANCHOR = "layer1.0.conv1.weight"
_STEMS = {"torchvision": "conv1.weight", "cadene": "layer0.conv1.weight"}
_DEEP_STEMS = ("stem.0.weight", "conv1.0.weight", "layer0.conv2.weight")
_FROM_CADENE = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^(layer[1-4]\.\d+\.conv\d)\.(weight)$", r"\1.conv.\2"),
        (r"^(layer[1-4]\.\d+\.)bn(\d)\.(\w+)$", r"\1conv\2.adn.N.\3"),
        (r"^(layer[1-4]\.\d+\.)se_module\.fc1\.(\w+)$", r"\1se_layer.fc.0.\2"),
        (r"^(layer[1-4]\.\d+\.)se_module\.fc2\.(\w+)$", r"\1se_layer.fc.2.\2"),
        (r"^(layer[1-4]\.\d+\.)downsample\.0\.(\w+)$", r"\1project.conv.\2"),
        (r"^(layer[1-4]\.\d+\.)downsample\.1\.(\w+)$", r"\1project.adn.N.\2"),
    )
)


class PretrainedReport(NamedTuple):
    """What of a file went into an encoder.

    Attributes:
        matched: number of the encoder's tensors that were filled.
        missing: the encoder's tensors that were not: the file lacks them or has them in another shape.
        unexpected: the file's tensors of this encoder that it has no place for; classifiers are not among them.
        layout: "torchvision" or "cadene", and the prefix of the names if there was one.
    """

    matched: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    layout: str


@torch.no_grad()
def load_pretrained(
    encoder: nn.Module, state_dict: Mapping[str, Any], name: str = "the pretrained weights"
) -> PretrainedReport:
    """Fill an encoder with pretrained weights and report what matched; the encoder is untouched where it refuses.

    Counters of batches (`num_batches_tracked`) are loaded where they are there and counted nowhere. A tensor of another
    shape is not squeezed in: with 4 input channels the first convolution stays as it was and is reported missing.

    Args:
        encoder: a `DilatedResNet50` or `DilatedSEResNeXt50`.
        state_dict: what the file holds: names to tensors, or a checkpoint with these in `state_dict` or `model`.
            Prefixes (`backbone.`, `module.`) are found, other parts of a checkpoint ignored.
        name: what the errors call the weights, for example the path of the file.

    Returns:
        The report; log it.

    Raises:
        UserError: PRETRAINED if fewer than 95 % of the encoder's tensors match, if the weights are of a deep stem
            (three 3x3 convolutions, ResNet-50 V1c and D) or of another layout than the encoder's, or of two encoders.

    Example:
        >>> from medseg3d.networks.backbones import DilatedResNet50
        >>> source, encoder = DilatedResNet50(), DilatedResNet50()
        >>> weights = {f"backbone.{key}": tensor for key, tensor in source.state_dict().items()}
        >>> load_pretrained(encoder, {"state_dict": weights, "meta": {}})
        PretrainedReport(matched=265, missing=(), unexpected=(), layout='torchvision, prefix backbone.')
    """
    own = encoder.state_dict()
    wanted = "cadene" if _STEMS["cadene"] in own else "torchvision"
    tensors = _unwrapped(state_dict)
    prefix = _prefix(tensors, name)
    inner = {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    _check_layout(inner, wanted, name)
    renamed = {_renamed(key): tensor for key, tensor in inner.items()} if wanted == "cadene" else inner
    fitted = {key: _fitted(renamed[key], own[key]) for key in own if key in renamed}
    filled = {key: tensor for key, tensor in fitted.items() if tensor is not None}
    needed = [key for key in own if not key.endswith(_COUNTER)]
    missing = tuple(key for key in needed if key not in filled)
    matched = len(needed) - len(missing)
    if matched < LEAST_MATCHED * len(needed):
        raise _refusal(
            name, f"{matched} of {len(needed)} tensors of the encoder (without {', '.join(missing[:3])}, ...)"
        )
    for key, tensor in filled.items():
        own[key].copy_(tensor)
    unexpected = tuple(sorted(key for key in renamed if key not in own and not key.startswith(_CLASSIFIERS)))
    return PretrainedReport(matched, missing, unexpected, wanted + (f", prefix {prefix}" if prefix else ""))


def _unwrapped(state_dict: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    inner = next((state_dict[key] for key in _WRAPPERS if isinstance(state_dict.get(key), Mapping)), None)
    if inner is not None:
        return _unwrapped(inner)
    return {str(key): value for key, value in state_dict.items() if isinstance(value, torch.Tensor)}


def _prefix(tensors: Mapping[str, torch.Tensor], name: str) -> str:
    prefixes = sorted(
        key[: -len(_ANCHOR)]
        for key in tensors
        if key.endswith(_ANCHOR) and (len(key) == len(_ANCHOR) or key[-len(_ANCHOR) - 1] == ".")
    )
    if not prefixes:
        raise _refusal(name, f"{len(tensors)} tensors, none of them called {_ANCHOR}")
    if len(prefixes) > 1:
        raise _refusal(name, f"{len(prefixes)} encoders ({', '.join(prefixes[:3])})")
    return prefixes[0]


def _check_layout(inner: Mapping[str, torch.Tensor], wanted: str, name: str) -> None:
    if any(stem in inner for stem in _DEEP_STEMS):
        raise _refusal(
            name, "a deep stem of three 3x3 convolutions (ResNet V1c or D), which is another network than the 7x7 stem"
        )
    found = next((layout for layout, stem in _STEMS.items() if stem in inner), None)
    if found != wanted:
        raise _refusal(
            name, f"the layout of {found}" if found else "no stem", f"that of {wanted}, as the encoder has it"
        )


def _renamed(key: str) -> str:
    """MONAI's name of one of Cadene's tensors."""
    for pattern, replacement in _FROM_CADENE:
        if pattern.match(key):
            return pattern.sub(replacement, key)
    return key


def _fitted(tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
    """The tensor in the encoder's shape, or None; Cadene's squeeze-and-excitation layers are 1x1 convolutions."""
    if tensor.ndim == own.ndim + 2 and tensor.shape[own.ndim :] == (1, 1):
        tensor = tensor[..., 0, 0]
    return tensor if tensor.shape == own.shape else None


def _refusal(name: str, found: str, wanted: str = "") -> UserError:
    wanted = wanted or f"at least {LEAST_MATCHED:.0%} of the encoder's tensors"
    resnets = "torchvision's or timm's resnet50 for ResNet-50, of Cadene's se_resnext50_32x4d for SE-ResNeXt-50"
    return UserError(
        "PRETRAINED", name, found, wanted, f"name weights of {resnets}, or train from scratch (random weights)"
    )
