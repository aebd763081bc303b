from __future__ import annotations

import argparse
import hashlib
import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import Dataset, MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.transforms import Compose, Orientationd, Spacingd
from torch import nn

from medseg3d.data.outputs import CaseList, input_items, record_file
from medseg3d.data.tensors import save_tensors
from medseg3d.faults import Fault
from medseg3d.inferers import CasePredictor, Report, SliceWindows, SlidingWindow, load_weights
from medseg3d.networks import SegResNetNL
from medseg3d.transforms import LoadNiftid, RestoreLabelsd, SaveMaskd

SHAPE = (12, 11, 10)
AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, -0.1) @ np.diag([-2.0, -2.0, 3.0]), [12.5, -40.0, 900.0]
)


def small_network(**options: int) -> SegResNetNL:
    torch.manual_seed(0)
    options = {"init_filters": 8, "nonlocal_blocks": 1, **options}
    return SegResNetNL(blocks_down=(1, 1, 1), blocks_up=(1, 1), **options).eval()


@pytest.mark.parametrize("key", [None, "model", "network", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_loaded_network_computes_what_the_saved_one_did(tmp_path: Path, key: str | None, prefix: str) -> None:
    saved, fresh = small_network(), small_network()
    with torch.no_grad():
        for parameter in saved.parameters():
            parameter += 0.1
    state = {prefix + name: value for name, value in saved.state_dict().items()}
    path = tmp_path / "model.pt"
    save_tensors(path, state if key is None else {key: state, "epoch": 3})
    image = torch.rand(1, 1, 8, 8, 8)
    assert not torch.equal(fresh(image), saved(image))
    assert load_weights(fresh, path) is fresh
    assert torch.equal(fresh(image), saved(image))
    assert fresh.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"nonlocal_blocks": 2}, r"8 unexpected \(nonlocal_blocks\.1\."),
        ({"nonlocal_blocks": 0}, r"8 missing \(nonlocal_blocks\.0\."),
        ({"init_filters": 16}, r"of another shape \(convInit\.conv\.weight \(16, 1, 3, 3, 3\) for \(8, 1, 3, 3, 3\)"),
        ({"out_channels": 3}, r"2 of another shape \(.*\(3, 8, 1, 1, 1\) for \(2, 8, 1, 1, 1\)"),
    ],
)
def test_weights_of_another_network_are_refused_and_the_network_stays(tmp_path: Path, other: dict, words: str) -> None:
    save_tensors(tmp_path / "model.pt", small_network(**other).state_dict())
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(Fault, match=rf"CHECKPOINT .*model\.pt: weights of another network: .*{words}.*--init_filters"):
        load_weights(network, tmp_path / "model.pt")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def under(*keys: str, prefix: str = "") -> Callable[[dict], dict]:
    """A trainer's file: the state dict with a prefix, under keys."""

    def wrap(state: dict) -> dict:
        content: dict = {prefix + name: value for name, value in state.items()}
        for key in reversed(keys):
            content = {"epoch": 3, key: content}
        return content

    return wrap


@pytest.mark.parametrize(
    "wrap",
    [
        *(under(prefix=prefix) for prefix in ("_orig_mod.", "module._orig_mod.", "module.module.", "model.")),
        *(under(key) for key in ("net", "network_weights", "model_state_dict", "state_dict", "model", "network")),
        under("state_dict", prefix="model._orig_mod."),
    ],
)
def test_weights_come_out_of_the_wrappers_of_other_trainers(tmp_path: Path, wrap: Callable) -> None:
    saved, fresh = small_network(), small_network()
    torch.save(wrap(saved.state_dict()), tmp_path / "model.pt")
    load_weights(fresh, tmp_path / "model.pt")
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in saved.state_dict().items())


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"best": np.float64(0.5)}, r"numpy\.\S*scalar"),
        ({"args": argparse.Namespace(lr=1)}, r"argparse\.Namespace"),
        ({"net": nn.Conv2d(1, 1, 1)}, r"torch\.nn\.modules\.conv\.Conv2d"),
    ],
)
def test_what_is_no_tensor_is_named_with_how_to_save_tensors_only(tmp_path: Path, extra: dict, named: str) -> None:
    torch.save({"model": small_network().state_dict(), **extra}, tmp_path / "model.pt")
    with pytest.raises(Fault, match=rf"CHECKPOINT .*: {named} in it, .*torch\.save\(network\.state_dict\(\)"):
        load_weights(small_network(), tmp_path / "model.pt")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_other_kinds_of_numbers_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({name: value.to(dtype) for name, value in small_network().state_dict().items()}, tmp_path / "model.pt")
    with pytest.raises(Fault, match=rf"CHECKPOINT .*{dtype}"):
        load_weights(small_network(), tmp_path / "model.pt")


def test_a_file_with_no_name_of_the_network_is_not_blamed_on_its_knobs(tmp_path: Path) -> None:
    torch.save({"other.weight": torch.ones(1)}, tmp_path / "model.pt")
    with pytest.raises(Fault, match=r"Hint: no name is one of this network's"):
        load_weights(small_network(), tmp_path / "model.pt")


@pytest.mark.parametrize(("content", "code"), [(None, "MISSING_WEIGHTS"), (b"no weights", "CHECKPOINT")])
def test_what_holds_no_weights_is_refused(tmp_path: Path, content: bytes | None, code: str) -> None:
    if content is not None:
        (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(Fault, match=code):
        load_weights(small_network(), tmp_path / "model.pt")


@pytest.mark.parametrize("shape", [(24, 24, 24), (10, 40, 24), (16, 17, 31)])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_logits_are_those_of_monais_sliding_window(shape: tuple[int, ...], overlap: float) -> None:
    network, volume = small_network(), torch.rand(1, 1, *shape)
    with torch.inference_mode():
        expected = SlidingWindowInferer((16, 16, 16), 1, overlap, "gaussian")(volume, network)
        got = SlidingWindow((16, 16, 16), overlap)(volume, network)
    assert got.shape == (1, 2, *shape)
    assert torch.allclose(got, expected, atol=1e-5)


def test_small_volume_is_padded_with_cval_and_cropped_back() -> None:
    seen = []
    volume = torch.ones(1, 1, 4, 5, 6)
    got = SlidingWindow((8, 8, 8), cval=-3)(volume, lambda window: seen.append(window.clone()) or window)
    (window,) = seen
    assert window.shape == (1, 1, 8, 8, 8)
    assert window[0, 0, 2:6, 1:6, 1:7].unique().tolist() == [1]
    assert window.sum() == volume.sum() - 3 * (8**3 - 4 * 5 * 6)
    assert torch.equal(got, volume)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("size", [8, 12])
def test_network_sees_windows_in_channels_last_memory(channels: int, dims: int, wanted: bool, size: int) -> None:
    strides = []

    def network(window: torch.Tensor) -> torch.Tensor:
        strides.append(window.stride())
        return window * 1  # MONAI scales what comes back in place

    volume = torch.rand(1, channels, *[size] * dims)
    expected = volume.clone()
    got = SlidingWindow([8] * dims, channels_last=wanted)(volume, network)
    assert torch.allclose(got, expected)
    assert {stride[1] for stride in strides} == ({1} if wanted else {size**dims})
    assert {stride[-1] for stride in strides} == {channels if wanted else 1}


def test_network_keeps_its_memory_format() -> None:
    network = small_network()
    before = [parameter.stride() for parameter in network.parameters()]
    SlidingWindow((8, 8, 8))(torch.rand(1, 1, 8, 8, 8), network)
    assert [parameter.stride() for parameter in network.parameters()] == before


def test_half_precision_is_for_the_network_alone() -> None:
    inside = []

    def network(window: torch.Tensor) -> torch.Tensor:
        inside.append(torch.is_autocast_enabled("cpu"))
        return window.bfloat16()

    got = SlidingWindow((8, 8, 8), overlap=0, precision="bfloat16")(torch.full((1, 1, 8, 8, 16), 1 / 3), network)
    assert inside == [True, True]
    assert got.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
    # blended in float32: of equal values comes the same value
    assert torch.allclose(got, torch.tensor(1 / 3).bfloat16().float(), atol=1e-6)


@pytest.mark.parametrize(("axes", "seen"), [([0], 2), ([1, 0], 4)])
def test_mirrored_windows_are_averaged_in_one_batch(axes: list[int], seen: int) -> None:
    picture = torch.rand(1, 3, 16, 8)
    batches = []

    def network(batch: torch.Tensor) -> torch.Tensor:
        batches.append(len(batch))
        return batch.cumsum(2) + batch.cumsum(3)  # a mirror image has other sums

    dims = [[], [2]] if axes == [0] else [[], [2], [3], [2, 3]]
    wanted = sum(network(picture.flip(each)).flip(each) for each in dims) / len(dims)
    batches.clear()
    found = SlidingWindow((16, 8), mirror_axes=axes)(picture, network)
    assert batches == [seen]
    assert (found - wanted).abs().max() < 1e-5


def test_windows_of_a_batch_are_mirrored_each() -> None:
    pictures = torch.rand(3, 1, 24, 16)
    inferer = SlidingWindow((16, 16), sw_batch_size=4, mirror_axes=[0, 1])
    together = inferer(pictures, lambda batch: batch.cumsum(2))
    for picture, logits in zip(pictures, together, strict=True):
        assert (inferer(picture[None], lambda batch: batch.cumsum(2))[0] - logits).abs().max() < 1e-5


@pytest.mark.parametrize("axes", [[0, 0], [3], [-1], ["x"]])
def test_axes_that_no_window_has_are_refused(axes: list) -> None:
    with pytest.raises(Fault, match="mirror_axes"):
        SlidingWindow((16, 16), mirror_axes=axes)


def test_an_axis_that_pictures_have_not_is_refused() -> None:
    with pytest.raises(Fault, match=r"mirror_axes.*\(16, 16\)"):
        SlidingWindow((16, 16), mirror_axes=[2])(torch.rand(1, 1, 16, 16), lambda batch: batch)


def test_geometry_of_the_image_passes_through() -> None:
    affine = torch.from_numpy(AFFINE)
    volume = MetaTensor(torch.rand(1, 1, 8, 9, 10), affine=affine)
    assert torch.equal(SlidingWindow((8, 8, 8))(volume, lambda window: window).affine, affine)


@pytest.mark.parametrize("slices_per_batch", [1, 3, 99])
def test_slices_are_those_of_monais_sliding_window_in_2d(slices_per_batch: int) -> None:
    network, volume = small_network(spatial_dims=2, in_channels=3), torch.rand(1, 1, 24, 20, 5)
    with torch.inference_mode():
        got = SliceWindows((16, 16), slices_per_batch=slices_per_batch, overlap=0.5)(volume, network)
        for index, channels in enumerate(([0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4])):
            slab = volume[0, 0, :, :, channels].permute(2, 0, 1)[None]
            expected = SlidingWindowInferer((16, 16), 1, 0.5, "gaussian")(slab, network)
            assert torch.allclose(got[..., index], expected, atol=1e-5)
    assert got.shape == (1, 2, 24, 20, 5)


def test_without_neighbours_a_slice_stands_alone() -> None:
    volume = torch.rand(1, 1, 8, 8, 3)
    got = SliceWindows((8, 8), neighbours=0)(volume, lambda window: torch.cat([window, -window], 1))
    assert torch.allclose(got, torch.cat([volume, -volume], 1), atol=1e-6)


def test_a_slice_is_given_to_a_network_of_pictures_in_every_channel() -> None:
    volume = torch.rand(1, 1, 8, 8, 3)
    got = SliceWindows((8, 8), neighbours=0, copies=3)(volume, lambda window: window)
    assert torch.allclose(got, volume.expand(1, 3, 8, 8, 3), atol=1e-6)


def test_pictures_go_through_windows_as_they_are() -> None:
    network, pictures = small_network(spatial_dims=2, in_channels=3), torch.rand(2, 3, 24, 20)
    with torch.inference_mode():
        got = SliceWindows((16, 16))(pictures, network)
        assert torch.equal(got, SlidingWindow((16, 16))(pictures, network))


@pytest.mark.parametrize("shape", [(2, 1, 8, 8, 3), (1, 3, 8, 8, 3), (8, 8, 3)])
def test_what_is_neither_a_volume_nor_pictures_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SliceWindows((8, 8))(torch.zeros(shape), lambda window: window)


@pytest.mark.parametrize(
    "options", [{"roi_size": (8, 8, 8)}, {"neighbours": -1}, {"slices_per_batch": 0}, {"copies": 0}]
)
def test_windows_that_are_not_of_slices_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SliceWindows(**{"roi_size": (8, 8), **options})


def write_ct(path: Path, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = nib.Nifti1Image(values, AFFINE)
    volume.set_qform(AFFINE, 1)
    nib.save(volume, path)
    return values


def above_zero(image: torch.Tensor) -> torch.Tensor:
    """Logits that say 1 where the image is positive."""
    return torch.cat([-image, image], 1)


def predictor(dataset: object, network: Callable = above_zero, **options: object) -> CasePredictor:
    steps = [
        LoadNiftid("image"),
        Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
        Spacingd("image", pixdim=(2.0, 2.0, 3.0), dtype=torch.float32),
    ]
    defaults = {
        "inferer": SimpleInferer(),
        "preprocessing": Compose(steps),
        "postprocessing": Compose([RestoreLabelsd("pred"), SaveMaskd("pred")]),
    }
    return CasePredictor(dataset, network, **{**defaults, **options})  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_mask_marks_the_very_voxels_of_the_file(tmp_path: Path) -> None:
    values = write_ct(tmp_path / "in/ct.nii.gz")
    report = predictor(input_items(tmp_path / "in", tmp_path / "out")).run()
    assert report.exit_code == 0
    mask = nib.load(tmp_path / "out/ct_seg.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), values > 0)
    assert np.array_equal(mask.affine, nib.load(tmp_path / "in/ct.nii.gz").affine)


@pytest.mark.parametrize("inferer", [SimpleInferer(), SlidingWindow((8, 8, 8))])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_any_inferer_serves(tmp_path: Path, inferer: Callable, precision: str) -> None:
    values = write_ct(tmp_path / "in/ct.nii.gz")
    predictor(input_items(tmp_path / "in", tmp_path / "out"), inferer=inferer, precision=precision).run().check()
    assert np.array_equal(np.asarray(nib.load(tmp_path / "out/ct_seg.nii.gz").dataobj), values > 0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_half_precision_is_used_when_asked_for(tmp_path: Path, precision: str) -> None:
    def inferer(batch: torch.Tensor, network: Callable) -> torch.Tensor:
        enabled = torch.is_autocast_enabled("cpu")
        assert (str(torch.get_autocast_dtype("cpu")) if enabled else "torch.float32") == f"torch.{precision}"
        return network(batch)

    write_ct(tmp_path / "ct.nii.gz")
    predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out"), inferer=inferer, precision=precision).run().check()


def test_faulty_cases_do_not_stop_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(5):
        write_ct(tmp_path / f"in/{number}.nii.gz", seed=number)
    predictor(input_items(tmp_path / "in", tmp_path / "clean")).run().check()
    truncated, empty = tmp_path / "in/1.nii.gz", tmp_path / "in/3.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:1000])
    empty.write_bytes(b"")
    report = predictor(input_items(tmp_path / "in", tmp_path / "out")).run()
    assert [record["case"] for record in report.done] == ["0", "2", "4"]
    assert [str(failure).split(":")[0] for failure in report.failed] == [f"TRUNCATED {truncated}", f"EMPTY {empty}"]
    assert report.exit_code == 3
    assert str(report) == "3 segmented, 0 skipped, 2 failed"
    assert names(tmp_path / "out") == [f"{number}_seg.{kind}" for number in (0, 2, 4) for kind in ("json", "nii.gz")]
    for number in (0, 2, 4):
        name = f"{number}_seg.nii.gz"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == list(map(str, report.failed))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("inferer", [SimpleInferer(), SlidingWindow((8, 8, 8)), SliceWindows((8, 8), neighbours=0)])
def test_a_scan_whose_logits_are_not_finite_gets_no_mask(tmp_path: Path, inferer: Callable, workers: int) -> None:
    values = [write_ct(tmp_path / f"in/{number}.nii.gz", seed=number) for number in range(3)]
    voxel = int(np.setdiff1d(values[1], [values[0], values[2]])[0])  # the scan in the middle alone has it

    def network(window: torch.Tensor) -> torch.Tensor:
        return above_zero(torch.where(window == voxel, torch.inf, window))

    report = predictor(input_items(tmp_path / "in", tmp_path / "out"), network, inferer=inferer, workers=workers).run()
    assert [str(failure).split(":")[0] for failure in report.failed] == [f"NON_FINITE {tmp_path / 'in/1.nii.gz'}"]
    assert report.exit_code == 3
    assert names(tmp_path / "out") == [f"{number}_seg.{kind}" for number in (0, 2) for kind in ("json", "nii.gz")]


def test_all_faulty_is_another_exit_code(tmp_path: Path) -> None:
    for name in "ab":
        write_ct(tmp_path / f"in/{name}.nii.gz")
        (tmp_path / f"in/{name}.nii.gz").write_bytes(b"")
    report = predictor(input_items(tmp_path / "in", tmp_path / "out")).run()
    assert report.exit_code == 1
    with pytest.raises(Fault, match=r"CASES_FAILED 2 of 2 cases: first of all: EMPTY .*a\.nii\.gz"):
        report.check()


def test_only_case_fails_with_its_own_fault(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct.nii.gz")
    (tmp_path / "ct.nii.gz").write_bytes(b"")
    report = predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out")).run()
    with pytest.raises(Fault, match=r"^EMPTY "):
        report.check()


@pytest.mark.parametrize("where", ["preprocessing", "postprocessing"])
def test_what_nobody_foresaw_is_one_line_with_the_innermost_cause_and_the_file(tmp_path: Path, where: str) -> None:
    def fail(item: dict) -> dict:
        raise ZeroDivisionError("by zero")

    write_ct(tmp_path / "ct.nii.gz")
    report = predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out"), **{where: Compose([fail])}).run()
    said = f"INTERNAL {tmp_path / 'ct.nii.gz'}: ZeroDivisionError: by zero. Hint: "
    assert str(report.failed[0]).startswith(said)
    with pytest.raises(Fault, match="INTERNAL") as caught:
        report.check()
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert names(tmp_path / "out") == []


def test_interrupted_run_is_taken_up_where_it_stood(tmp_path: Path) -> None:
    for name in "abc":
        write_ct(tmp_path / f"in/{name}.nii.gz")

    def interrupted(item: dict) -> dict:
        if item["case"] == "b":
            raise KeyboardInterrupt
        return Compose([RestoreLabelsd("pred"), SaveMaskd("pred")])(item)

    with pytest.raises(KeyboardInterrupt):
        predictor(input_items(tmp_path / "in", tmp_path / "out"), postprocessing=interrupted).run()
    assert names(tmp_path / "out") == ["a_seg.json", "a_seg.nii.gz"]
    (tmp_path / "out/.medseg3d-tmp-0123456789abcdef.nii.gz").write_bytes(b"half a mask of a killed process")
    report = predictor(input_items(tmp_path / "in", tmp_path / "out")).run()
    assert ([item["case"] for item in report.skipped], [record["case"] for record in report.done]) == (
        ["a"],
        ["b", "c"],
    )
    assert report.exit_code == 0
    assert len(names(tmp_path / "out")) == 6


def test_resumed_run_with_faults_ends_like_the_first(tmp_path: Path) -> None:
    for name in "ab":
        write_ct(tmp_path / f"in/{name}.nii.gz")
    (tmp_path / "in/b.nii.gz").write_bytes(b"")
    codes = [predictor(input_items(tmp_path / "in", tmp_path / "out")).run().exit_code for _ in range(2)]
    assert codes == [3, 3]


@pytest.mark.parametrize("moment", ["before the mask", "after the mask"])
def test_no_record_speaks_of_another_mask(tmp_path: Path, moment: str) -> None:
    write_ct(tmp_path / "ct.nii.gz")
    predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out")).run().check()

    def killed(item: dict) -> dict:
        if moment == "after the mask":
            Compose([RestoreLabelsd("pred"), SaveMaskd("pred")])(item)
        raise KeyboardInterrupt

    again = input_items(tmp_path / "ct.nii.gz", tmp_path / "out", overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        predictor(again, postprocessing=killed).run()
    assert names(tmp_path / "out") == ["ct_seg.nii.gz"]
    # the mask without a record is ours, so the case is not done
    assert len(input_items(tmp_path / "ct.nii.gz", tmp_path / "out")) == 1


def test_record_tells_what_was_done(tmp_path: Path) -> None:
    values = write_ct(tmp_path / "secret/ct.nii.gz")
    network = nn.Conv3d(1, 2, 1, bias=False)
    network.weight.data = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1, 1)
    save_tensors(tmp_path / "model.pt", network.state_dict())
    network = load_weights(network, tmp_path / "model.pt")
    report = predictor(
        input_items(tmp_path / "secret/ct.nii.gz", tmp_path / "out"),
        network,
        inferer=SlidingWindow((8, 8, 8), precision="bfloat16"),
        settings={"window_hu": (-100, 240)},
    ).run()
    text = record_file(tmp_path / "out/ct_seg.nii.gz").read_text()
    record = json.loads(text)
    assert record["intended_use"] == "research only, not for clinical use"
    for part, path in (("input", "secret/ct.nii.gz"), ("mask", "out/ct_seg.nii.gz"), ("model", "model.pt")):
        assert record[part]["sha256"] == hashlib.sha256((tmp_path / path).read_bytes()).hexdigest()
    assert record["labels"] == {"1": {"voxels": (values > 0).sum(), "ml": pytest.approx((values > 0).sum() * 0.012)}}
    assert record["geometry"]["shape"] == list(SHAPE)
    assert record["geometry"]["spacing_mm"] == pytest.approx([2, 2, 3])
    assert record["geometry"]["orientation"] == "LPS"
    assert record["inference"] == {
        "class": "SlidingWindow", "device": "cpu", "precision": "bfloat16", "roi_size": [8, 8, 8], "overlap": 0.5
    }  # fmt: skip
    assert record["settings"] == {"window_hu": [-100, 240]}
    assert record["warnings"] == []
    assert set(record["seconds"]) == {"preprocessing", "inference", "postprocessing"}
    assert {"medseg3d", "monai", "torch"} <= record["versions"].keys()
    assert "secret" not in text
    assert record == json.loads(json.dumps(report.done[0]))


def test_warnings_and_an_empty_mask_are_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nib.save(nib.Nifti1Image(np.full(SHAPE, -7, np.int16), AFFINE), tmp_path / "ct.nii.gz")
    report = predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out")).run().check()
    codes = [warning.split(":")[0] for warning in report.done[0]["warnings"]]
    assert codes == ["HU_RANGE", "EMPTY_MASK"]
    assert report.done[0]["labels"] == {}
    assert [record.message.split(":")[:2] for record in caplog.records if record.levelname == "WARNING"] == [
        ["ct", f" {code}"] for code in codes
    ]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("two\nlines"), r"^INTERNAL .*ct\.nii\.gz: RuntimeError: two lines. "),
        (MemoryError(), "^OUT_OF_MEMORY .*ct.nii.gz"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "^OUT_OF_MEMORY"),
    ],
)
def test_whatever_a_network_raises_becomes_one_line(tmp_path: Path, error: Exception, words: str) -> None:
    def network(image: torch.Tensor) -> torch.Tensor:
        raise error

    write_ct(tmp_path / "ct.nii.gz")
    (failure,) = predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out"), network).run().failed
    assert re.search(words, str(failure))
    assert "\n" not in str(failure)
    assert not (tmp_path / "out").exists()


def test_data_set_with_its_own_transform_is_the_same(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct.nii.gz")
    write_ct(tmp_path / "done.nii.gz")
    predictor(input_items(tmp_path / "done.nii.gz", tmp_path / "a")).run()
    items = input_items([tmp_path / "ct.nii.gz", tmp_path / "done.nii.gz"], tmp_path / "a")
    steps = predictor([]).preprocessing
    report = predictor(Dataset(items, steps), preprocessing=None).run()
    assert (len(report.done), len(report.skipped)) == (1, 1)
    predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "b")).run()
    assert (tmp_path / "a/ct_seg.nii.gz").read_bytes() == (tmp_path / "b/ct_seg.nii.gz").read_bytes()


def test_plain_list_needs_a_preprocessing() -> None:
    with pytest.raises(ValueError, match="preprocessing must be given"):
        predictor(CaseList(), preprocessing=None)


def test_nothing_to_do_is_done() -> None:
    report = predictor(CaseList(skipped=[{"case": "a"}])).run()
    assert (report.exit_code, str(report)) == (0, "0 segmented, 1 skipped, 0 failed")
    assert report.check() is report
    assert Report().exit_code == 0


def test_progress_is_told_before_each_case(tmp_path: Path) -> None:
    for name in "ab":
        write_ct(tmp_path / f"in/{name}.nii.gz")
    told = []
    runner = predictor(input_items(tmp_path / "in", tmp_path / "out"))
    runner.progress = lambda number, total, item: told.append((number, total, item["case"], names(tmp_path / "out")))
    runner.run()
    assert told == [(1, 2, "a", []), (2, 2, "b", ["a_seg.json", "a_seg.nii.gz"])]


class TestWorkers:
    """Several cases under way at once."""

    def cases(self, folder: Path, count: int, bad: tuple[str, ...] = ()) -> list[str]:
        """Names of volumes written to `folder`, those of `bad` without a byte."""
        names = [f"ct_{index}" for index in range(count)]
        for seed, name in enumerate(names):
            write_ct(folder / f"{name}.nii.gz", seed)
            if name in bad:
                (folder / f"{name}.nii.gz").write_bytes(b"")
        return names

    def test_files_and_report_are_those_of_one_worker(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        bad = ("ct_1", "ct_4")
        names_of_cases = self.cases(tmp_path / "in", 6, bad)
        reports, told, said = {}, {}, {}
        for workers in (1, 3):
            caplog.clear()
            told[workers] = []
            reports[workers] = predictor(
                input_items(tmp_path / "in", tmp_path / f"out{workers}"),
                inferer=SlidingWindow((8, 8, 8)),
                workers=workers,
                progress=lambda number, total, item, to=told[workers]: to.append((number, total, item["case"])),
            ).run()
            said[workers] = [record.message for record in caplog.records if record.levelname == "ERROR"]
        assert told[3] == told[1] == [(number, 6, name) for number, name in enumerate(names_of_cases, 1)]
        assert said[3] == said[1]
        assert len(said[3]) == 2
        for report in reports.values():
            assert [record["case"] for record in report.done] == [name for name in names_of_cases if name not in bad]
            assert [failure.item["case"] for failure in report.failed] == list(bad)
        assert names(tmp_path / "out1") == names(tmp_path / "out3")
        for name in names(tmp_path / "out1"):
            one, three = ((tmp_path / folder / name).read_bytes() for folder in ("out1", "out3"))
            if name.endswith(".json"):
                one, three = ({**json.loads(record), "seconds": None} for record in (one, three))
            assert one == three, name

    def test_cases_are_under_way_at_once(self, tmp_path: Path) -> None:
        meeting = threading.Barrier(2, timeout=60)

        def network(image: torch.Tensor) -> torch.Tensor:
            meeting.wait()  # alone, a case would break the barrier
            assert torch.get_num_threads() == max(1, threads // 2)
            return above_zero(image)

        threads = torch.get_num_threads()
        self.cases(tmp_path / "in", 4)
        predictor(input_items(tmp_path / "in", tmp_path / "out"), network, workers=2).run().check()
        new = ThreadPoolExecutor(1).submit(torch.get_num_threads).result()
        assert (torch.get_num_threads(), new) == (threads, threads)

    def test_no_more_than_twice_the_workers_are_begun(self, tmp_path: Path) -> None:
        self.cases(tmp_path / "in", 7)
        ahead: list[int] = []
        runner = predictor(input_items(tmp_path / "in", tmp_path / "out"), workers=2)
        runner.progress = lambda number, total, item: ahead.append(number - 1 - len(names(tmp_path / "out")) // 2)
        report = runner.run().check()
        assert len(report.done) == 7
        assert max(ahead) <= 4

    def test_after_an_interrupt_what_is_under_way_ends_and_nothing_begins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.cases(tmp_path / "in", 9)
        raised, cancelled = threading.Event(), threading.Event()
        stock_shutdown = ThreadPoolExecutor.shutdown

        def shutdown(pool: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False) -> None:
            stock_shutdown(pool, wait=False, cancel_futures=cancel_futures)
            cancelled.set()
            stock_shutdown(pool, wait=wait)

        def interrupted(item: dict) -> dict:
            if item["case"] == "ct_1":
                raised.set()
                raise KeyboardInterrupt
            # the others of the four that are begun end when no more can begin
            assert (raised if item["case"] == "ct_0" else cancelled).wait(60)
            return Compose([RestoreLabelsd("pred"), SaveMaskd("pred")])(item)

        monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shutdown)
        with pytest.raises(KeyboardInterrupt):
            predictor(input_items(tmp_path / "in", tmp_path / "out"), postprocessing=interrupted, workers=2).run()
        written = names(tmp_path / "out")
        finished = {name.removesuffix("_seg.json") for name in written if name.endswith(".json")}
        assert written == sorted(f"{name}_seg.{kind}" for name in finished for kind in ("json", "nii.gz"))
        assert {"ct_0"} <= finished <= {"ct_0", "ct_2", "ct_3"}

    def test_as_many_as_torch_has_threads_and_eight_at_most(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = []
        for threads in (1, 3, 64):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            found.append(predictor(CaseList(), workers=None).workers)
        assert found == [1, 3, 8]

    @pytest.mark.parametrize("workers", [0, "many"])
    def test_what_is_no_number_of_cases_is_refused(self, workers: object) -> None:
        with pytest.raises(Fault, match=f"^BAD_VALUE --workers: {workers!r}, expected a number of cases, 1 or more"):
            predictor(CaseList(), workers=workers)


def test_network_infers_without_dropout_and_without_gradients(tmp_path: Path) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            assert not self.training
            assert not (self.weight * image).requires_grad
            return above_zero(image)

    write_ct(tmp_path / "ct.nii.gz")
    predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out"), Network().train()).run().check()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("stitch_on", [None, "cpu"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("precision", ["auto", "float16"])
def test_gpu_marks_the_same_voxels(tmp_path: Path, stitch_on: str | None, workers: int, precision: str) -> None:
    write_ct(tmp_path / "in/other.nii.gz", seed=1)
    values = write_ct(tmp_path / "in/ct.nii.gz")
    predictor(
        input_items(tmp_path / "in", tmp_path / "out"),
        inferer=SlidingWindow((8, 8, 8), precision=precision, device=stitch_on),
        device="cuda",
        workers=workers,
    ).run().check()
    assert np.array_equal(np.asarray(nib.load(tmp_path / "out/ct_seg.nii.gz").dataobj), values > 0)
