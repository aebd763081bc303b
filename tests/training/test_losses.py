from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss

from medseg3d.training import AuxiliaryLoss, PixelCrossEntropy


def test_padding_does_not_count_in_the_cross_entropy() -> None:
    logits, labels = torch.randn(2, 2, 4, 6), torch.randint(0, 2, (2, 1, 4, 6), dtype=torch.uint8)
    inner = F.cross_entropy(logits[..., :4], labels[:, 0, :, :4].long())
    labels[..., 4:] = 255
    assert PixelCrossEntropy()(logits, labels) == pytest.approx(inner.item())


def test_cross_entropy_of_two_classes_is_the_binary_one_of_the_papers_equation() -> None:
    logits, labels = torch.randn(2, 2, 4, 6), torch.randint(0, 2, (2, 1, 4, 6))
    binary = F.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], labels[:, 0].float())
    assert PixelCrossEntropy()(logits, labels) == pytest.approx(binary.item(), abs=1e-6)


@pytest.mark.parametrize("heads", [1, 2])
def test_auxiliary_heads_are_added_by_weight(heads: int) -> None:
    labels = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    # two equal logits cost log 2; those of an auxiliary head that is sure and right nearly nothing
    even, sure = torch.zeros(1, 2, 2, 2), torch.stack([torch.full((1, 2, 2), 50.0), torch.zeros(1, 2, 2)], 1)
    loss = AuxiliaryLoss(PixelCrossEntropy(), 0.4)
    assert loss((sure, *[even] * heads), labels) == pytest.approx(0.4 * heads * math.log(2))
    assert loss((even, *[sure] * heads), labels) == pytest.approx(math.log(2))


def test_a_single_tensor_is_the_loss_itself() -> None:
    logits, labels = torch.randn(2, 1, 4, 6), torch.randint(0, 2, (2, 1, 4, 6))
    dice = DiceLoss(sigmoid=True)
    assert AuxiliaryLoss(dice)(logits, labels) == dice(logits, labels)
