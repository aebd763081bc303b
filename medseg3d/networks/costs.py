"""What a network costs: parameters, multiplications, memory of a forward pass. Nothing is computed to find out."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from medseg3d.networks import crf, mamba


@dataclass(frozen=True)
class ModuleCosts:
    """The part of a network that one of its modules is.

    Attributes:
        path: dotted name within the network, as `named_modules` gives it.
        kind: name of the module's class.
        parameters: number of parameters in it, those of its own modules included.
        macs: its multiply-accumulates.
    """

    path: str
    kind: str
    parameters: int
    macs: int

    @property
    def depth(self) -> int:
        """1 for a module of the network itself, 2 for a module of that, and so on."""
        return self.path.count(".") + 1


@dataclass(frozen=True)
class NetworkCosts:
    """What one input costs in float32 on a CPU.

    Attributes:
        parameters: number of parameters, shared ones once.
        trainable: how many of them are trained.
        checkpoint_bytes: the state dict's tensors, buffers included; a file of them is some kB larger.
        macs: multiply-accumulates of a forward pass in convolutions, matrix products and attention: half of the
            floating-point operations that `torch.utils.flop_counter` finds. Pointwise work (normalization, activation,
            pooling, interpolation, a selective scan, a CRF's lattice) is not counted, as is customary.
        activation_bytes: inference: most bytes of tensors alive at one time, input and weights apart.
        backward_bytes: training: bytes of the tensors kept for the backward pass, input and weights apart; of one input
            in a batch of two, because batch normalization refuses a single value per channel.
        modules: every module that has parameters or multiplies, parents before children.

    The working space that a kernel takes for itself while it runs (im2col, reordered weights) is in neither memory:
    it depends on the machine. A selective scan counts as one kernel, which it is where mamba_ssm is installed, and so
    does a filter on a permutohedral lattice, whose size depends on the image.
    """

    parameters: int
    trainable: int
    checkpoint_bytes: int
    macs: int
    activation_bytes: int
    backward_bytes: int
    modules: tuple[ModuleCosts, ...]


def network_costs(network: nn.Module, input_shape: Sequence[int]) -> NetworkCosts:
    """The costs of a network for one input.

    Args:
        network: any module of one tensor; its weights and its mode stay as they are.
        input_shape: (channels, *spatial).

    Raises:
        ValueError, RuntimeError: the network's own refusal of an input of this shape.

    Example:
        >>> costs = network_costs(nn.Conv2d(3, 8, kernel_size=3, padding=1), (3, 16, 16))
        >>> costs.parameters, costs.macs, costs.activation_bytes
        (224, 55296, 8192)
    """
    sizes = [parameter.numel() for parameter in network.parameters()]
    with _without_values(network) as weights:
        counter, activation_bytes = _inference(network.eval(), weights, torch.empty(1, *input_shape))
        backward_bytes = _kept_for_backward(network.train(), weights, torch.empty(2, *input_shape)) // 2
    return NetworkCosts(
        parameters=sum(sizes),
        trainable=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
        checkpoint_bytes=sum(value.numel() * value.element_size() for value in network.state_dict().values()),
        macs=counter.get_total_flops() // 2,
        activation_bytes=activation_bytes,
        backward_bytes=backward_bytes,
        modules=tuple(_module_costs(network, counter)),
    )


def forward_bytes(network: nn.Module, input_shape: Sequence[int]) -> tuple[int, int]:
    """Most bytes of tensors alive at one time in a forward pass, input and weights apart, and the channels it gives.

    Under autocast those of its precision. What a kernel takes for itself is not in it, see `NetworkCosts`.

    Args:
        network: any module of one tensor; its weights and its mode stay as they are.
        input_shape: (B, channels, *spatial).

    Example:
        >>> forward_bytes(nn.Conv2d(3, 8, kernel_size=3, padding=1), (2, 3, 16, 16))
        (16384, 8)
    """
    with _without_values(network) as weights:
        image = torch.empty(*input_shape, device=next(iter(weights.values())).device)
        with torch.no_grad(), _LiveTensors([*weights.values(), image]) as live:
            logits = torch.func.functional_call(network.eval(), weights, (image,), tie_weights=False)
    return live.peak_bytes, logits.shape[1]


def network_record(network: nn.Module, in_channels: int, input_size: Sequence[int]) -> dict[str, Any]:
    """What a run keeps of its network: plain values, so that nobody must build it again to know them.

    Args:
        network: any module of one tensor, on any device; it stays as it is.
        in_channels: channels of its input.
        input_size: spatial size of its input, that of a window.

    Returns:
        `class`, its dotted name; `input_shape`, (channels, *spatial); and the numbers of `NetworkCosts`.

    Example:
        >>> record = network_record(nn.Conv2d(3, 8, kernel_size=3, padding=1), 3, (16, 16))
        >>> record["class"], record["input_shape"], record["parameters"]
        ('torch.nn.modules.conv.Conv2d', [3, 16, 16], 224)
    """
    shape = [in_channels, *input_size]
    numbers = asdict(network_costs(copy.deepcopy(network).cpu(), shape))
    del numbers["modules"]
    kind = type(network)
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "input_shape": shape, **numbers}


def _inference(
    network: nn.Module, weights: dict[str, torch.Tensor], image: torch.Tensor
) -> tuple[FlopCounterMode, int]:
    attention_on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # missing in torch's own list
    flops = {attention_on_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
    counter = FlopCounterMode(display=False, custom_mapping=flops)
    with torch.no_grad(), counter, _LiveTensors([*weights.values(), image]) as live:
        torch.func.functional_call(network, weights, (image,), tie_weights=False)
    return counter, live.peak_bytes


def _kept_for_backward(network: nn.Module, weights: dict[str, torch.Tensor], image: torch.Tensor) -> int:
    given = {tensor.untyped_storage()._cdata for tensor in [*weights.values(), image]}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in given:
            kept[storage._cdata] = storage
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.func.functional_call(network, weights, (image,), tie_weights=False)
    return sum(storage.nbytes() for storage in kept.values())


class _LiveTensors(TorchDispatchMode):
    """Follows the memory of the tensors that operators make, from their making to their end.

    Args:
        given: tensors that are there already and do not count.

    Attributes:
        live_bytes: bytes of all tensors alive, a memory that several share once.
        peak_bytes: the most there were.
    """

    def __init__(self, given: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self._known: set[int] = set()
        for tensor in given:
            self._known.add(tensor.untyped_storage()._cdata)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor.untyped_storage())
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return made

    def _follow(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address not in self._known:
            self._known.add(address)
            self.live_bytes += size
            weakref.finalize(storage, self._end, address, size)

    def _end(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live_bytes -= size


class _ScanOfShapes(torch.autograd.Function):
    """What a selective scan takes, gives and keeps for its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, *others)
        return torch.empty_like(x)


class _LatticeOfShapes:
    """What a permutohedral lattice gives."""

    def __init__(self, features: torch.Tensor) -> None: ...

    def average(self, values: torch.Tensor) -> torch.Tensor:
        return values.clone()


@contextmanager
def _without_values(network: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Context in which tensors have shapes and no values, with the weights of a network as such.

    Every operator takes the way that it takes on a CPU; the meta device would have attention store its map of all
    pairs.
    """
    pretence = FakeTensorMode(allow_non_fake_inputs=True)
    tensors = [*network.parameters(), *network.buffers()]
    # outside of the mode, where to detach is not yet a pretence itself, which takes three times as long
    shapes = {each: pretence.from_tensor(each.detach()).requires_grad_(each.requires_grad) for each in tensors}
    # to follow the scan's many small steps would take minutes, and the lattice's size depends on the image
    scan = patch.object(mamba, "selective_scan", _ScanOfShapes.apply)
    lattice = patch.object(crf, "PermutohedralLattice", _LatticeOfShapes)
    with pretence, _mode_kept(network), scan, lattice:
        # a module in two places once: torch would leave it the shapes instead of its weights
        yield {
            f"{path}.{name}" if path else name: shapes[tensor]
            for path, module in network.named_modules()
            for own in (module.named_parameters, module.named_buffers)
            for name, tensor in own(recurse=False, remove_duplicate=False)
        }


def _module_costs(network: nn.Module, counter: FlopCounterMode) -> Iterator[ModuleCosts]:
    flops = {path: sum(of_kind.values()) for path, of_kind in counter.get_flop_counts().items()}

    def macs(module: nn.Module, path: str) -> int:
        if path in flops:
            return flops[path] // 2
        # a list of modules is never called itself, only what it holds
        return sum(macs(child, f"{path}.{name}") for name, child in module.named_children())

    for path, module in network.named_modules():
        if path:
            parameters = sum(parameter.numel() for parameter in module.parameters())
            costs = ModuleCosts(
                path, type(module).__name__, parameters, macs(module, f"{type(network).__name__}.{path}")
            )
            if costs.parameters or costs.macs:
                yield costs


@contextmanager
def _mode_kept(network: nn.Module) -> Iterator[None]:
    """Context after which every module is in training or in evaluation as it was before."""
    before = {module: module.training for module in network.modules()}
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training
