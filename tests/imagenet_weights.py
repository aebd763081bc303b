"""Synthetic weights with the names and shapes that published ImageNet weights have."""

from __future__ import annotations

import re

import torch
from monai.networks.nets import SEResNext50
from monai.networks.nets.resnet import resnet50

TO_CADENE = (
    (r"^(layer[1-4]\.\d\.conv\d)\.conv\.(\w+)$", r"\1.\2"),
    (r"^(layer[1-4]\.\d\.)conv(\d)\.adn\.N\.(\w+)$", r"\1bn\2.\3"),
    (r"^(layer[1-4]\.\d\.)se_layer\.fc\.0\.(\w+)$", r"\1se_module.fc1.\2"),
    (r"^(layer[1-4]\.\d\.)se_layer\.fc\.2\.(\w+)$", r"\1se_module.fc2.\2"),
    (r"^(layer[1-4]\.\d\.)project\.conv\.(\w+)$", r"\1downsample.0.\2"),
    (r"^(layer[1-4]\.\d\.)project\.adn\.N\.(\w+)$", r"\1downsample.1.\2"),
)


def varied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values of their own for every tensor: BatchNorm's begin as equal ones."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(tensor.shape, generator=generator) * 0.1 + 0.05 if tensor.is_floating_point() else tensor + 7
        for key, tensor in state.items()
    }


def torchvision_weights() -> dict[str, torch.Tensor]:
    """torchvision's (and timm's) ResNet-50, 320 tensors, classifier included."""
    network = resnet50(
        pretrained=False,
        spatial_dims=2,
        n_input_channels=3,
        conv1_t_stride=2,
        bias_downsample=False,
        num_classes=1000,
    )
    return varied(network.state_dict())


def cadene_weights() -> dict[str, torch.Tensor]:
    """Cadene's SE-ResNeXt-50 by MONAI's renaming backwards; without counters of batches, as the file has none."""
    weights = {}
    for key, tensor in varied(SEResNext50(spatial_dims=2, in_channels=3).state_dict()).items():
        if key.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in TO_CADENE:
            key = re.sub(pattern, replacement, key)
        weights[key] = tensor[..., None, None] if "se_module" in key and key.endswith("weight") else tensor
    return weights
