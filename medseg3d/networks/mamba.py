"""The Mamba block: a sequence mixed by a selective scan, in plain torch or by mamba_ssm's CUDA kernel."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from medseg3d.networks.selective_scan import selective_scan


class Mamba(nn.Module):
    """Every token mixed with those before it, `(B, L, D)` to `(B, L, D)`, in time and memory linear in L.

    A projection to twice E = `expand`·D channels; one half passes a causal depthwise convolution, SiLU and the
    selective scan with step sizes, inputs and read-outs computed from itself, the other half gates the result; a
    projection back.

    Parameters have the names, shapes and initial distributions of `mamba_ssm.Mamba`, so the state dict of one loads
    into the other. The scan runs in mamba_ssm's CUDA kernel where that package is installed and the tensors are float32
    on CUDA, else in `selective_scan`. (The kernel itself was not run in our tests, which have no GPU: they check what
    it is called with.)

    Args:
        d_model: channels D of a token.
        d_state: states N of each channel of the scan.
        d_conv: tokens that the convolution sees.
        expand: channels of the scan by those of a token.

    References:
        Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, https://arxiv.org/abs/2312.00752

    Example:
        >>> Mamba(d_model=8)(torch.rand(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        if min(d_model, d_state, d_conv, expand) < 1:
            raise ValueError(
                "d_model, d_state, d_conv and expand must be at least 1, "
                f"got {d_model}, {d_state}, {d_conv} and {expand}"
            )
        inner, self.dt_rank, self.d_state = expand * d_model, math.ceil(d_model / 16), d_state
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        self._init_step_sizes()

    def _init_step_sizes(self, low: float = 1e-3, high: float = 1e-1) -> None:
        """Step sizes between `low` and `high`, evenly in their logarithm."""
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        steps = torch.empty_like(self.dt_proj.bias).uniform_(math.log(low), math.log(high)).exp()
        with torch.no_grad():
            self.dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # whose softplus is the step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The mixed tokens, `(B, L, D)`."""
        x, gate = self.in_proj(x).chunk(2, dim=-1)
        x = F.silu(self.conv1d(x.transpose(1, 2))[..., : x.shape[1]])  # (B, E, L)
        delta, b, c = self.x_proj(x.transpose(1, 2)).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return self.out_proj(self._scan(x, self.dt_proj(delta), -torch.exp(self.A_log), b, c, gate))

    def _scan(
        self,
        x: torch.Tensor,
        delta: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        c: torch.Tensor,
        gate: torch.Tensor,
    ) -> torch.Tensor:
        """The gated read-out, `(B, L, E)`, of `x` `(B, E, L)`; all others have the tokens before the channels."""
        if not torch.jit.is_scripting():
            fused_scan = _fused_scan_for(x)
            if fused_scan is not None:
                delta, b, c, gate = (sequence.transpose(1, 2).contiguous() for sequence in (delta, b, c, gate))
                return fused_scan(x, delta, a, b, c, self.D, z=gate, delta_softplus=True).transpose(1, 2)
        x = x.transpose(1, 2)
        return (selective_scan(x, F.softplus(delta), a, b, c) + self.D * x) * F.silu(gate)


def _fused_scan_for(x: torch.Tensor) -> Callable | None:
    """mamba_ssm's kernel, None for a tensor it does not take."""
    if not x.is_cuda or x.dtype != torch.float32 or torch.compiler.is_exporting():
        return None
    return _fused_scan()


@functools.cache
def _fused_scan() -> Callable | None:
    """mamba_ssm's kernel, None where the package is not installed."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    return selective_scan_fn
