"""What every network must do, as a base class of tests: subclass it and say how to build the network."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable

import pytest
import torch
from torch import nn


class NetworkTester:
    """Inherited tests; a subclass gives `make` and the shape of one small input."""

    input_shape: tuple[int, ...]
    """(channel, *spatial) of an input the tests can afford."""
    other_spatial: tuple[int, ...]
    """Another spatial size the network must take, in a file exported with free sizes too."""
    gradient_free: tuple[str, ...] = ()
    """Endings of the names of parameters that no output depends on."""

    atol: float = 1e-5
    """How far equal outputs may be apart: rounding, which a deep network amplifies."""
    bf16_error: float = 0.02
    """Mean error of bfloat16 over the mean output."""

    def make(self) -> nn.Module:
        """The network, with no path switched off by its initialisation."""
        raise NotImplementedError

    @pytest.fixture
    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval()

    @pytest.fixture
    def x(self) -> torch.Tensor:
        return torch.randn(2, *self.input_shape, generator=torch.Generator().manual_seed(1))

    @pytest.fixture
    def x_other(self) -> torch.Tensor:
        return torch.randn(3, self.input_shape[0], *self.other_spatial, generator=torch.Generator().manual_seed(2))

    @torch.no_grad()
    def test_output_has_the_spatial_size_of_the_input(self, network, x, x_other):
        assert network(x).shape[2:] == x.shape[2:]
        assert network(x_other).shape[2:] == x_other.shape[2:]

    @torch.no_grad()
    def test_a_case_does_not_see_the_others_of_its_batch(self, network, x):
        alone = torch.cat([network(case[None]) for case in x])
        torch.testing.assert_close(network(x), alone, rtol=1e-4, atol=self.atol)

    @torch.no_grad()
    def test_eval_is_deterministic_and_leaves_the_input_alone(self, network, x):
        before = x.clone()
        assert torch.equal(network(x), network(x))
        assert torch.equal(x, before)

    def test_backward_reaches_every_parameter(self, network, x):
        network.train()(x).square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        assert [name for name, gradient in gradients.items() if gradient is None] == []
        still = [name for name, gradient in gradients.items() if not gradient.abs().max() > 0]
        assert [name for name in still if not name.endswith(self.gradient_free)] == []

    @torch.no_grad()
    def test_saved_weights_give_equal_outputs_in_a_new_network(self, network, x):
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        torch.manual_seed(99)
        other = self.make().eval()
        assert not torch.equal(other(x), network(x))
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(other(x), network(x))

    @torch.no_grad()
    def test_channels_last_gives_equal_outputs(self, network, x):
        memory_format = torch.channels_last_3d if x.dim() == 5 else torch.channels_last
        expected = network(x)
        network = copy.deepcopy(network).to(memory_format=memory_format)
        torch.testing.assert_close(network(x.to(memory_format=memory_format)), expected, rtol=1e-4, atol=self.atol)

    @torch.no_grad()
    def test_bf16_autocast_is_close(self, network, x):
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(x)
        exact = network(x)
        assert (rough.float() - exact).abs().mean() < self.bf16_error * exact.abs().mean()

    @torch.no_grad()
    def test_torchscript_gives_equal_outputs(self, network, x, x_other):
        scripted = _through_file(torch.jit.script(network))
        assert torch.equal(scripted(x), network(x))
        assert torch.equal(scripted(x_other), network(x_other))

    @pytest.mark.slow
    def test_torch_export_gives_equal_outputs_at_any_size(self, network, x, x_other):
        program = exported(type(self)).module()
        with torch.no_grad():
            torch.testing.assert_close(program(x), network(x), rtol=1e-5, atol=self.atol / 10)
            torch.testing.assert_close(program(x_other), network(x_other), rtol=1e-5, atol=self.atol / 10)

    @pytest.mark.slow
    @torch.no_grad()
    def test_onnx_gives_equal_outputs_at_any_size(self, network, x, x_other):
        logits = onnx_of(exported(type(self)))
        torch.testing.assert_close(logits(x), network(x), rtol=1e-4, atol=self.atol)
        torch.testing.assert_close(logits(x_other), network(x_other), rtol=1e-4, atol=self.atol)


class ExportTester(NetworkTester):
    """Tests of a module whose graph is small enough to be traced with free sizes whenever the suite runs."""

    def test_torch_export_gives_equal_outputs_at_any_size(self, network, x, x_other):
        super().test_torch_export_gives_equal_outputs_at_any_size(network, x, x_other)

    def test_onnx_gives_equal_outputs_at_any_size(self, network, x, x_other):
        super().test_onnx_gives_equal_outputs_at_any_size(network, x, x_other)


@functools.lru_cache(maxsize=1)
@torch.no_grad()
def exported(tester: type[NetworkTester]) -> torch.export.ExportedProgram:
    """The network that the `network` fixture makes, exported with every size but that of the channels free."""
    torch.manual_seed(0)
    network = tester().make().eval()
    x = torch.randn(2, *tester.input_shape, generator=torch.Generator().manual_seed(1))
    free = {axis: torch.export.Dim.AUTO for axis in range(x.dim()) if axis != 1}
    return torch.export.export(network, (x,), dynamic_shapes=(free,))


def onnx_of(program: torch.export.ExportedProgram) -> Callable[[torch.Tensor], torch.Tensor]:
    """An exported network as onnxruntime computes it."""
    import onnxruntime

    model = torch.onnx.export(program, (), dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def count(network: nn.Module) -> int:
    """Parameters of a network, trainable or not."""
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def with_statistics(network: nn.Module, x: torch.Tensor) -> nn.Module:
    """The network with the BatchNorm statistics of `x`: those of a new one let a deep network's numbers explode."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(x)
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def _through_file(scripted: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    return torch.jit.load(file)
