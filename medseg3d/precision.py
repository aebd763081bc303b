"""The numbers that a network computes with: one knob for training and inference on every device."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import torch

from medseg3d.errors import UsageError
from medseg3d.knobs import as_flag, choice

logger = logging.getLogger("medseg3d")

AUTO = "auto"
_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Name -> what autocast reduces to."""


class Precision:
    """What a network computes in: float32, or under autocast bfloat16 or float16.

    Weights, gradients, losses and the optimizer's state are float32 in each of them. float16 ends at 65,504 and loses
    small gradients, so its losses are scaled; bfloat16 has float32's range and three decimal digits.

    Args:
        name: `float32`, `bfloat16` or `float16`.
        reason: why it was chosen, for the log; empty where it was requested.

    Attributes:
        dtype: what autocast reduces to; None for float32.

    Raises:
        UserError: `BAD_VALUE` for another name.
    """

    def __init__(self, name: str, reason: str = "") -> None:
        self.dtype: torch.dtype | None = choice("precision", name, _DTYPES)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return self.name

    def autocast(self, device_type: str) -> torch.autocast:
        """A context in which a network computes in this precision on devices of a type."""
        return torch.autocast(device_type, dtype=self.dtype, enabled=self.dtype is not None)

    def scaler(self, device_type: str) -> torch.amp.GradScaler:
        """A new scaler of losses; it does nothing but in float16."""
        return torch.amp.GradScaler(device_type, enabled=self.dtype == torch.float16)

    def go_on_from(self, before: str) -> None:
        """Go on with a training that has computed in `before`.

        What was chosen for this device gives way, so that a training does not change its numbers because it moves to
        another machine; what was requested stays, and the log says that it is another.
        """
        if before == self.name:
            return
        if self.reason:
            logger.info(
                "precision %s, which this training started with (this device alone would use %s)", before, self.name
            )
            self.dtype = _DTYPES[before]
            self.name = before
        else:
            logger.warning("precision %s from here on, as requested; so far this training used %s", self.name, before)


def check_device(device: str | int | torch.device) -> str:
    """The name of a device, which is there.

    Raises:
        UserError: `DEVICE`, also for what is not a name of one.

    Example:
        >>> check_device("cpu")
        'cpu'
    """
    try:
        named = torch.device(device)
        there = named.type != "meta" and (named.type == "cpu" or (named.index or 0) < _devices(named.type))
    except RuntimeError:
        there = False
    if there:
        return str(named)
    others = [f"{kind}:{index}" for kind in ("cuda", "mps", "xpu") for index in range(_devices(kind))]
    found = "no such device available to torch"
    remedy = "use --device cpu, or leave it out for the best available"
    raise UsageError("DEVICE", f"--device {device}", found, f"one of {', '.join(['cpu', *others])}", remedy)


def _devices(kind: str) -> int:
    """How many devices of a kind there are, without waking one."""
    module = getattr(torch, kind, None)
    if module is None or not hasattr(module, "device_count"):
        return 0
    return module.device_count() if not hasattr(module, "is_available") or module.is_available() else 0


def choose_precision(
    precision: str = AUTO, device: str | torch.device = "cpu", amp: bool | str | None = None
) -> Precision:
    """The precision that the knobs ask for on a device; the log says which one and why.

    `auto` is the fastest that trains safely. On GPUs bfloat16 from compute capability 8.0 up, where it is as fast as
    float16 and cannot overflow, and float16 below. On CPUs bfloat16 with AMX, and with AVX512-BF16 on AMD's, where
    convolutions are two to three times faster in it than in float32; float32 on all others, where they are not
    (docs/benchmarks/precision.md). Elsewhere float32. It follows from the device alone: the same machine always says
    the same.

    Args:
        precision: `auto`, `float32`, `bfloat16` or `float16`.
        device: where the network runs.
        amp: the knob before this one: false is float32, true what `auto` reduces to, on CPUs always bfloat16; None
            where it is not given.

    Raises:
        UserError: `BAD_VALUE`, also where the two knobs contradict each other.

    Example:
        >>> print(choose_precision("bfloat16"), choose_precision("auto", "cpu", amp=False))
        bfloat16 float32
    """
    device = torch.device(device)
    chosen = _of_device(device) if precision == AUTO else Precision(precision)
    if amp is not None:
        chosen = _with_amp(chosen, as_flag(amp, "amp"), device)
    logger.info("precision %s%s", chosen, f": {chosen.reason}" if chosen.reason else "")
    return chosen


@lru_cache
def precision_on(precision: str, device: torch.device) -> Precision:
    """`choose_precision` where it is asked before every forward pass."""
    return choose_precision(precision, device)


def resolved(precision: Precision | str, device: torch.device) -> Precision:
    """A precision as it is; what a name stands for on a device."""
    return precision if isinstance(precision, Precision) else precision_on(precision, device)


def _with_amp(chosen: Precision, amp: bool, device: torch.device) -> Precision:
    if chosen.reason:  # auto: the other knob decides
        if not amp:
            return Precision("float32")
        return Precision("bfloat16") if device.type == "cpu" else chosen
    if amp != (chosen.dtype is not None):
        wanted = "options that do not contradict each other"
        remedy = "leave out --amp: --precision is enough"
        raise UsageError("BAD_VALUE", f"--amp {str(amp).lower()}", f"--precision {chosen} next to it", wanted, remedy)
    return chosen


def _of_device(device: torch.device) -> Precision:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name = "bfloat16" if (major, minor) >= (8, 0) else "float16"
        return Precision(name, f"this GPU has compute capability {major}.{minor}")
    if device.type == "cpu":
        return _of_processor()
    return Precision("float32", f"nothing else has been tried on {device.type}")


def _of_processor() -> Precision:
    if not hasattr(torch.cpu, "get_capabilities"):
        return Precision("float32", f"torch {torch.__version__} does not say what this processor can do")
    processor: dict[str, Any] = dict(torch.cpu.get_capabilities())
    if processor.get("amx_bf16"):
        return Precision("bfloat16", "this processor multiplies it in AMX tiles")
    if not processor.get("avx512_bf16"):
        return Precision("float32", "this processor has no instructions for bfloat16")
    if str(processor.get("cpu_name", "")).startswith("AMD"):
        return Precision("bfloat16", "this AMD processor multiplies it with AVX512-BF16")
    return Precision("float32", "bfloat16 is no faster on this processor, which has AVX512-BF16 but no AMX")
