from __future__ import annotations

import logging

import pytest
import torch

from medseg3d.errors import UserError
from medseg3d.precision import Precision, choose_precision, precision_on


@pytest.fixture
def on_a_gpu(monkeypatch):
    """A function that pretends that every GPU has a compute capability."""

    def pretend(major: int, minor: int) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))

    return pretend


@pytest.fixture
def on_a_processor(monkeypatch):
    """A function that pretends that the processor can do these things."""

    def pretend(name: str, *capabilities: str) -> None:
        found = {"cpu_name": name, **dict.fromkeys(capabilities, True)}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)

    return pretend


@pytest.mark.parametrize(
    ("capability", "name", "dtype", "scales"),
    [
        ((7, 0), "float16", torch.float16, True),
        ((7, 5), "float16", torch.float16, True),
        ((8, 0), "bfloat16", torch.bfloat16, False),
        ((9, 0), "bfloat16", torch.bfloat16, False),
    ],
)
def test_a_gpu_has_bfloat16_from_capability_8_up_and_scaled_float16_below(
    capability, name, dtype, scales, on_a_gpu, monkeypatch
):
    made = []
    for kind in ("autocast", "amp.GradScaler"):
        owner, _, attribute = f"torch.{kind}".rpartition(".")
        record = (lambda what: lambda device, **settings: made.append((what, device, settings)))(attribute)
        monkeypatch.setattr(f"{owner}.{attribute}", record)
    on_a_gpu(*capability)
    chosen = choose_precision("auto", "cuda:0")
    assert (chosen.name, chosen.dtype) == (name, dtype)
    chosen.autocast("cuda")
    chosen.scaler("cuda")
    assert made == [
        ("autocast", "cuda", {"dtype": dtype, "enabled": True}),
        ("GradScaler", "cuda", {"enabled": scales}),
    ]


@pytest.mark.parametrize(
    ("name", "capabilities", "expected"),
    [
        ("Intel Xeon", ("avx512_f", "avx512_bf16", "amx_tile", "amx_bf16"), "bfloat16"),
        ("Intel Xeon", ("avx512_f", "avx512_bf16"), "float32"),
        ("Intel Xeon", ("avx512_f",), "float32"),
        ("AMD EPYC", ("avx512_f", "avx512_bf16"), "bfloat16"),
        ("AMD EPYC", ("avx2",), "float32"),
    ],
)
def test_a_processor_has_bfloat16_where_it_was_measured_to_be_faster(name, capabilities, expected, on_a_processor):
    on_a_processor(name, *capabilities)
    assert choose_precision("auto", "cpu").name == expected
    assert choose_precision().name == expected


def test_where_torch_cannot_tell_and_on_other_devices_it_is_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_precision("auto", "cpu").name == "float32"
    assert choose_precision("auto", "mps").name == "float32"


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_asked_for_is_had_anywhere(name, device):
    assert choose_precision(name, device).name == name


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_network_computes_in_it_and_keeps_its_weights(name):
    layer = torch.nn.Linear(2, 2)
    with Precision(name).autocast("cpu"):
        assert layer(torch.ones(1, 2)).dtype == getattr(torch, name)
    assert layer.weight.dtype == torch.float32
    assert Precision(name).scaler("cpu").is_enabled() == (name == "float16")


def test_another_name_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="BAD_VALUE --precision: 'half', expected one of float32, bfloat16, float16"):
        choose_precision("half")


@pytest.mark.parametrize(
    ("precision", "amp", "device", "expected"),
    [
        ("auto", None, "cpu", "float32"),
        ("auto", "true", "cpu", "bfloat16"),
        ("auto", True, "cuda", "float16"),
        ("auto", "false", "cpu", "float32"),
        ("auto", False, "cuda", "float32"),
        ("float16", "true", "cpu", "float16"),
        ("bfloat16", True, "cuda", "bfloat16"),
        ("float32", "False", "cuda", "float32"),
    ],
)
def test_amp_is_still_understood(precision, amp, device, expected, on_a_gpu, on_a_processor):
    on_a_gpu(7, 5)
    on_a_processor("Intel Xeon", "avx512_f")
    assert choose_precision(precision, device, amp).name == expected


@pytest.mark.parametrize(("precision", "amp"), [("float32", True), ("bfloat16", "false"), ("float16", False)])
def test_amp_must_not_contradict_precision(precision, amp):
    words = f"BAD_VALUE --amp {str(amp).lower()}: --precision {precision} next to it.*leave out --amp"
    with pytest.raises(UserError, match=words):
        choose_precision(precision, "cpu", amp)


def test_amp_is_a_flag():
    with pytest.raises(UserError, match="BAD_VALUE --amp: 'float16', expected true or false"):
        choose_precision("auto", "cpu", "float16")


def test_one_line_says_what_was_chosen_and_why(on_a_gpu, caplog):
    caplog.set_level(logging.INFO, "medseg3d")
    on_a_gpu(7, 5)
    choose_precision("auto", "cuda")
    choose_precision("float32", "cuda")
    assert caplog.messages == ["precision float16: this GPU has compute capability 7.5", "precision float32"]


def test_before_every_forward_pass_it_is_said_once(caplog):
    caplog.set_level(logging.INFO, "medseg3d")
    precision_on.cache_clear()
    for _ in range(3):
        precision_on("float16", torch.device("cpu"))
    assert len(caplog.messages) == 1


class TestGoingOn:
    def test_what_was_chosen_gives_way_to_what_a_training_began_in(self, on_a_gpu, caplog):
        caplog.set_level(logging.INFO, "medseg3d")
        on_a_gpu(9, 0)
        chosen = choose_precision("auto", "cuda")
        chosen.go_on_from("float16")
        assert (chosen.name, chosen.dtype) == ("float16", torch.float16)
        assert caplog.messages[-1] == (
            "precision float16, which this training started with (this device alone would use bfloat16)"
        )

    def test_what_was_asked_for_stays_and_the_log_warns(self, caplog):
        chosen = choose_precision("float32")
        chosen.go_on_from("float16")
        assert (chosen.name, chosen.dtype) == ("float32", None)
        assert caplog.messages[-1] == "precision float32 from here on, as requested; so far this training used float16"

    @pytest.mark.parametrize("amp", [True, False])
    def test_amp_is_as_good_as_asking(self, amp):
        chosen = choose_precision("auto", "cpu", amp)
        chosen.go_on_from("float16")
        assert chosen.name == ("bfloat16" if amp else "float32")

    def test_the_same_again_is_not_worth_a_word(self, caplog):
        caplog.set_level(logging.INFO, "medseg3d")
        Precision("float16").go_on_from("float16")
        assert caplog.messages == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_real_gpu_multiplies_in_what_was_chosen():
    chosen = choose_precision("auto", "cuda")
    with chosen.autocast("cuda"):
        product = torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")
    assert product.dtype == chosen.dtype
