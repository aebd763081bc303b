from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from medseg3d import bench
from medseg3d.cli import main
from medseg3d.errors import UserError
from medseg3d.inference import SliceWindows, SlidingWindow
from medseg3d.precision import Precision

FOUND = {
    "machine": {"processor": "a processor", "cores": 2, "threads": 1, "memory_gib": 8.0, "load": [0.1, 0.2]},
    "limits": {
        "gemm": {"float32": 100, "bfloat16": 400},
        "convolution": {"float32": 80, "bfloat16": 200},
        "write": 90,
        "read": 900,
    },
    "network": {"class": "Net", "weights": "0123456789abcdef", "windows": [1, 3, 8, 8], "gflop": 20.0},
    "engines": [
        {"engine": "torch", "precision": "float32", "median": 0.5, "gflops": 40, "share": 0.5, "difference": 0.0},
        {"engine": "quick", "precision": "bfloat16", "median": 0.2, "gflops": 100, "share": 0.5, "difference": 0.01},
        {"engine": "absent", "precision": "float32", "left_out": "MISSING_PACKAGE it"},
    ],
    "image": {"name": "ct.nii.gz", "shape": [4, 4, 4]},
    "stages": {
        **{"read": 1.0, "preprocess": 2.0, "network": 5.0, "restore": 1.5, "write": 0.5},
        **{"engine": "torch", "precision": "float32"},
    },
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "_MATRIX", 32)
    monkeypatch.setattr(bench, "_FILE_MIB", 1)
    monkeypatch.setattr(bench, "_SECONDS", 0.01)
    monkeypatch.setenv("MEDSEG3D_CACHE", str(tmp_path / "cache"))


def test_rates_and_shares_are_those_of_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {("torch", "float32"): [0.5, 9.0, 0.1], ("torch", "bfloat16"): [0.25, 0.25, 0.25]}
    monkeypatch.setattr(bench, "in_turns", lambda forwards, windows, rounds: times)
    network = nn.Conv2d(1, 1, 1).eval()
    limits = {"float32": 8.0, "bfloat16": 16.0}
    one, two = bench.engine_rows(network, torch.rand(1, 1, 4, 4), ["torch"], 3, 2e9, limits)
    assert (one["median"], one["gflops"], one["share"], one["difference"]) == (0.5, 4.0, 0.5, 0.0)
    assert (two["median"], two["gflops"], two["share"]) == (0.25, 8.0, 0.5)


def test_an_engine_that_cannot_is_listed_with_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(name: str, network: nn.Module, windows: torch.Tensor, precision: Precision) -> nn.Module:
        if name == "absent":
            raise UserError("MISSING_PACKAGE", name, "no package", "it", "pip install it")
        return network

    monkeypatch.setattr(bench, "make_engine", make)
    limits = {"float32": 1.0, "bfloat16": 1.0}
    rows = bench.engine_rows(nn.Conv2d(1, 1, 1), torch.rand(1, 1, 4, 4), ["absent", "torch"], 1, 1e9, limits)
    assert [(row["engine"], row.get("left_out", "")[:15]) for row in rows] == [
        *[("torch", "")] * 2,
        *[("absent", "MISSING_PACKAGE")] * 2,
    ]


def test_the_table_names_limits_engines_and_stages() -> None:
    lines = [line.split() for line in bench.table(FOUND).splitlines()]
    assert ["convolution", "80", "200", "GFLOP/s"] in lines
    assert ["torch", "float32", "500.0", "1.00x", "40", "50%", "0.0e+00"] in lines
    assert ["quick", "bfloat16", "200.0", "2.50x", "100", "50%", "1.0e-02"] in lines
    assert ["absent", "float32", "MISSING_PACKAGE", "it"] in lines
    assert ["network", "5.000", "s", "50%"] in lines


@pytest.mark.parametrize("dims", [2, 3])
def test_a_machine_has_limits(small: None, tmp_path: Path, dims: int) -> None:
    limits = bench.machine_limits(dims, tmp_path)
    rates = [*limits["gemm"].values(), *limits["convolution"].values(), limits["write"], limits["read"]]
    assert min(rates) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("inferer", "shape", "wanted"),
    [
        (SlidingWindow((8, 8), sw_batch_size=2), (1, 3, 8, 20), (2, 3, 8, 8)),
        (SliceWindows((8, 8), neighbours=1, sw_batch_size=4), (1, 1, 8, 8, 6), (4, 3, 8, 8)),
    ],
)
def test_the_windows_are_the_first_that_the_network_would_see(inferer, shape, wanted) -> None:
    inferer.engine = engine = object()
    windows = bench._first_windows(inferer, torch.rand(shape))
    assert tuple(windows.shape) == wanted
    assert inferer.engine is engine


def test_reading_and_writing_are_stages_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class LoadIt:
        def __call__(self, item: dict) -> dict:
            return {**item, "loaded": True}

    clock = iter([0, 1, 10, 12])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    seconds = dict.fromkeys(bench.STAGES, 0.0)
    chain = bench.Compose([LoadIt(), dict])
    assert bench._timed(chain, {}, seconds, "preprocess") == {"loaded": True}
    assert seconds == {"read": 1, "preprocess": 2, "network": 0, "restore": 0, "write": 0}


def test_the_verb_keeps_what_it_prints(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "polyp_resunetpp", "--engines", "torch", "--rounds", "1", "--engine", "torch"]
    assert main([*words, "-o", str(tmp_path / "bench.json"), "--figure", str(tmp_path / "bench.png")]) == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    assert capsys.readouterr().out == bench.table(found)
    assert (found["network"]["parameters"], found["network"]["windows"]) == (4_062_993, [1, 3, 128, 128])
    assert [(row["engine"], row["precision"]) for row in found["engines"]] == [
        ("torch", "float32"),
        ("torch", "bfloat16"),
    ]
    assert min(found["stages"][stage] for stage in bench.STAGES) > 0
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
