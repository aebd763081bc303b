"""A segmentation network followed by a conditional random field, trained together: CRF-as-RNN.

Zheng et al., *Conditional Random Fields as Recurrent Neural Networks*, ICCV 2015, https://arxiv.org/abs/1502.03240
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from medseg3d.networks.permutohedral import PermutohedralLattice
from medseg3d.networks.refinement import foreground_logit, only_output


class CRFasRNN(nn.Module):
    """Logits after mean-field steps of a dense CRF, in which every pixel pulls the others towards its label.

    Each step takes the softmax Q of the logits, averages it around every pixel, once with weights
    `exp(-|p_i - p_j|² / 2γ²)` of the pixel positions p and once with
    `exp(-|p_i - p_j|² / 2α² - |I_i - I_j|² / 2β²)` of positions and colours I, and sets the
    logits to `unary - μ (W_s Q_s + W_b Q_b)`. With W or μ zero it returns the unary.

    Only the 3 L² numbers of W_s, W_b and μ are trained, 12 for two labels, initialised to 3 I, 5 I and -I. This
    μ is the Potts model (0 for equal labels, 1 for different ones) up to a constant that the softmax ignores, and as in
    the original code the penalty is subtracted. They are few and of a very different scale than a network's weights,
    and the original gives them separate learning rates: this module has no other parameters.

    The first average is exact. The second is the permutohedral lattice's, as in the original, and agrees with that of
    pydensecrf, whose code the original took over, to 1e-5. As there, a pixel is its own neighbour. The last of the
    averages of L labels is one minus the others, and is not computed. Runs in float32, or in float64 if the logits
    are, whatever autocast says. Neither TorchScript nor `torch.export` can trace it, because the lattice's size
    depends on the image.

    Args:
        num_classes: L.
        training_iterations: mean-field steps in training.
        iterations: steps otherwise.
        alpha: α in pixels; 160 was chosen for PASCAL VOC's images of 500 × 375 and is not rescaled for others.
        beta: β in units of the image.
        gamma: γ in pixels.

    Shape:
        logits `(B, L, H, W)` and image `(B, C, H, W)` of 0 to 255; output `(B, L, H, W)`.

    Raises:
        ValueError: a width that is not positive, fewer than two labels, a negative number of steps; when called, shapes
            that do not match.

    Example:
        >>> crf = CRFasRNN()
        >>> sum(parameter.numel() for parameter in crf.parameters())
        12
        >>> crf(torch.zeros(1, 2, 8, 8), torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 2, 8, 8])
    """

    def __init__(
        self,
        num_classes: int = 2,
        training_iterations: int = 5,
        iterations: int = 10,
        alpha: float = 160.0,
        beta: float = 3.0,
        gamma: float = 3.0,
    ) -> None:
        super().__init__()
        if min(alpha, beta, gamma) <= 0:
            raise ValueError(f"alpha, beta and gamma must be above 0, got {alpha}, {beta} and {gamma}")
        if num_classes < 2 or min(training_iterations, iterations) < 0:
            raise ValueError(
                "num_classes must be 2 or more, training_iterations and iterations 0 or more, got "
                f"{num_classes}, {training_iterations} and {iterations}"
            )
        self.num_classes = num_classes
        self.training_iterations = training_iterations
        self.iterations = iterations
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.spatial = nn.Parameter(3 * torch.eye(num_classes))
        self.bilateral = nn.Parameter(5 * torch.eye(num_classes))
        self.compatibility = nn.Parameter(-torch.eye(num_classes))

    def forward(self, logits: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        """Logits (B, L, H, W) of the unary's (B, L, H, W) and of an image (B, C, H, W) of 0 to 255."""
        if logits.shape != (len(picture), self.num_classes, *picture.shape[2:]):
            raise ValueError(
                f"logits must be {(len(picture), self.num_classes, *picture.shape[2:])} for the image, got "
                f"{list(logits.shape)} and {list(picture.shape)}"
            )
        with torch.autocast(logits.device.type, enabled=False):
            unary = logits.to(torch.promote_types(logits.dtype, torch.float32))
            lattice = PermutohedralLattice(self._features(picture.to(unary.dtype)))
            rows, columns = (gaussian_average(size, self.gamma, unary) for size in unary.shape[2:])
            compatibility, *kernels = (each.to(unary) for each in (self.compatibility, self.spatial, self.bilateral))
            weights = [compatibility @ kernel for kernel in kernels]
            # with q_L = 1 - q_1 - ... - q_(L-1) in both averages
            weight = torch.cat([each[:, :-1] - each[:, -1:] for each in weights], 1)
            bias = torch.stack([each[:, -1] for each in weights]).sum(0)[:, None, None]
            refined = unary
            for _ in range(self.training_iterations if self.training else self.iterations):
                prob = refined.softmax(1)[:, :-1]
                averages = [rows @ prob @ columns.t(), lattice.average(prob.flatten(2)).view_as(prob)]
                message = torch.einsum("lk,bkhw->blhw", weight, torch.cat(averages, 1)) + bias
                refined = unary - message
        return refined

    def _features(self, picture: torch.Tensor) -> torch.Tensor:
        """(B, H W, 2 + C): places and colours of the pixels in deviations of the second average's weights."""
        rows, columns = (
            torch.arange(size, dtype=picture.dtype, device=picture.device) / self.alpha for size in picture.shape[2:]
        )
        place = torch.stack(torch.meshgrid(columns, rows, indexing="xy")).expand(len(picture), -1, -1, -1)
        return torch.cat([place, picture.detach() / self.beta], 1).flatten(2).transpose(1, 2)


class CRFRefined(nn.Module):
    """Logits of a backbone refined by a `CRFasRNN`, which also sees the image.

    The image in 0 to 255 is recovered from the network's input, `255 (input · channel_std + channel_mean)`.

    Args:
        backbone: any network that returns logits at the size of the image: one channel z, equivalent to the logits 0
            and z of two labels, or `num_classes` channels.
        channel_mean: what was subtracted from each channel of the images, in 0 to 1.
        channel_std: what it was then divided by.
        kwargs: as in `CRFasRNN`.

    Attributes:
        crf: the `CRFasRNN`; all other parameters are the backbone's.

    Shape:
        input `(B, C, H, W)` as the backbone takes it, output as the backbone gives it.

    Raises:
        ValueError: as `CRFasRNN`; when called, for a backbone with several outputs, see `only_output`.

    Example:
        >>> network = CRFRefined(nn.Conv2d(3, 1, kernel_size=1), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        >>> network(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 1, 16, 16])
    """

    channel_mean: torch.Tensor
    channel_std: torch.Tensor

    def __init__(
        self,
        backbone: nn.Module,
        channel_mean: Sequence[float] = (0.0, 0.0, 0.0),
        channel_std: Sequence[float] = (1.0, 1.0, 1.0),
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.crf = CRFasRNN(**kwargs)
        for name, values in (("channel_mean", channel_mean), ("channel_std", channel_std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of an image (B, C, H, W), as many channels as the backbone's."""
        output = self.backbone(x)
        logits = output if isinstance(output, torch.Tensor) else only_output(output)
        picture = 255 * (x * self.channel_std + self.channel_mean)
        if logits.shape[1] > 1:
            return self.crf(logits, picture)
        return foreground_logit(self.crf(torch.cat([torch.zeros_like(logits), logits], 1), picture))


def gaussian_average(size: int, deviation: float, like: torch.Tensor) -> torch.Tensor:
    """(size, size): row i averages the elements with weights of a Gaussian around i, none cut off.

    Example:
        >>> gaussian_average(2, 1.0, torch.zeros(1)).tolist()  # exp(-1 / 2) = 0.6065
        [[0.622..., 0.377...], [0.377..., 0.622...]]
    """
    place = torch.arange(size, device=like.device, dtype=like.dtype)
    return (-((place - place[:, None]) / deviation).square() / 2).softmax(1)
