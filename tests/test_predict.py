"""`medseg3d predict` on images: whole commands on a bundle that ships tiny weights."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT
from picture_runs import FEATURES, polyp_folder, tiny_weights
from PIL import Image

from medseg3d.bundle import read_config
from medseg3d.bundle_folders import shipped_weights
from medseg3d.checks import REFERENCE
from medseg3d.cli import main
from medseg3d.errors import UserError
from medseg3d.files.signature import SIGNATURE
from medseg3d.pictures.masks import read_grey
from medseg3d.pictures.overlays import draw_overlay
from medseg3d.workflows import predict, weights_for


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A copy of polyp_resunetpp with weights of its own to ship."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("polyp_resunetpp", "_shared"):
        shutil.copytree(ROOT / "bundles" / name, root / "bundles" / name, ignore=shutil.ignore_patterns("models"))
    folder = root / "bundles" / "polyp_resunetpp"
    tiny_weights(folder / "models" / "tiny.safetensors", seed=0)
    overlay = {
        "_desc_": "Overlay: tiny weights",
        "model_file": "bundles/polyp_resunetpp/models/tiny.safetensors",
        "picture_size": [32, 32],
        "features": FEATURES,
        "roi_size": "$@picture_size",
        "clean": "%bundles/_shared/polyp.json::train::clean",
    }
    (folder / "tiny.json").write_text(json.dumps(overlay))
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**metadata, "shipped_weights": "tiny"}))
    return folder


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> Path:
    """A folder of six images; the current directory is another one."""
    folder = polyp_folder(tmp_path / "polyps") / "images"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def content(folder: Path, name: str) -> object:
    """What is in a file, but for the times in a record."""
    if name.endswith(".json"):
        return {**json.loads((folder / name).read_text()), "seconds": None}
    return (folder / name).read_bytes()


class TestShippedWeights:
    """Weights that come with a bundle."""

    def test_a_bundle_and_a_picture_are_a_whole_command(self, bundle, pictures, capsys):
        assert main(["predict", str(bundle), str(pictures / "1.jpg"), "--device", "cpu"]) == 0
        assert files(Path()) == ["masks/1_seg.json", "masks/1_seg.png"]
        weights = bundle / "models" / "tiny.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        line = capsys.readouterr().out.splitlines()[0]
        assert line.startswith(f"weights tiny: {weights}, sha256 {digest[:12]}, picture_size [32, 32], features")
        assert line.endswith(f"features {FEATURES}; to use your own: --model_file runs/.../model.pt")
        record = json.loads(Path("masks/1_seg.json").read_text())
        assert (record["model"]["sha256"], record["settings"]["picture_size"]) == (digest, [32, 32])
        assert record["class_names"] == ["polyp"]
        assert 0 < record["labels"]["1"]["percent"] < 100

    def test_cases_are_segmented_in_the_directory_of_the_caller(self, bundle, pictures, tmp_path):
        seen = []
        predict(bundle, pictures / "1.jpg", "out", knobs={"device": "cpu"}, progress=lambda *_: seen.append(Path.cwd()))
        assert seen == [tmp_path / "here"]
        assert files(Path("out")) == ["1_seg.json", "1_seg.png"]

    def test_weights_of_ones_own_are_used_and_not_announced(self, bundle, pictures, tmp_path, capsys):
        digest = tiny_weights(tmp_path / "own" / "model.safetensors", seed=1)
        knobs = ["--model_file", "../own/model.safetensors", "--features", str(FEATURES), "--picture_size", "[32, 32]"]
        assert main(["predict", str(bundle), str(pictures / "1.jpg"), *knobs, "--device", "cpu"]) == 0
        assert json.loads(Path("masks/1_seg.json").read_text())["model"]["sha256"] == digest
        assert not capsys.readouterr().out.startswith("weights ")

    @pytest.mark.parametrize("words", [["--config-overlay", "unet"], ["--output_dir", "runs/mine"]])
    def test_whoever_names_a_training_gets_its_weights_or_none(self, bundle, pictures, words, capsys):
        assert main(["predict", str(bundle), str(pictures / "1.jpg"), *words]) == 1
        err = capsys.readouterr().err
        assert "MISSING_WEIGHTS" in err
        assert "train first, or name the file with --model_file" in err

    def test_a_bundle_that_ships_none_has_none(self):
        assert weights_for(ROOT / "bundles" / "polyp_ann") is None

    def test_damaged_weights_are_refused(self, bundle, pictures, capsys):
        weights = bundle / "models" / "tiny.safetensors"
        whole = weights.read_bytes()
        try:
            weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            assert main(["predict", str(bundle), str(pictures / "1.jpg")]) == 1
        finally:
            weights.write_bytes(whole)
        assert "error: CHECKSUM" in capsys.readouterr().err
        assert files(Path()) == []

    @pytest.mark.parametrize(
        ("overlay", "code"), [("tinier", "MISSING_OVERLAY"), ("absent", "MISSING_WEIGHTS .*restore the file")]
    )
    def test_what_the_metadata_promises_must_be_there(self, overlay, code, tmp_path):
        folder = tmp_path / "bundles" / "a"
        folder.mkdir(parents=True)
        (folder / "inference.json").write_text("{}")
        (folder / "absent.json").write_text('{"model_file": "bundles/a/models/absent.safetensors"}')
        (folder / "metadata.json").write_text(json.dumps({"shipped_weights": overlay}))
        with pytest.raises(UserError, match=f"^{code}"):
            shipped_weights(folder)


@pytest.mark.parametrize("windows", [[], ["--roi_size", "[16, 16]"]], ids=["whole images", "windows"])
class TestWorkers:
    """Pictures under way at once."""

    def predict(self, bundle: Path, pictures: Path, workers: int, windows: list[str]) -> Path:
        out = Path(f"by_{workers}")
        more = ["--probabilities", f"{out}/probs", "--save-overlays", f"{out}/drawn", "--workers", str(workers)]
        assert (
            main(["predict", str(bundle), str(pictures), "-o", f"{out}/masks", "--device", "cpu", *more, *windows]) == 0
        )
        return out

    def test_every_file_is_that_of_one_worker(self, bundle, pictures, windows):
        torch.set_num_threads(1)  # or the rounding of a sum may differ
        one, three = (self.predict(bundle, pictures, workers, windows) for workers in (1, 3))
        assert files(one) == files(three)
        assert len(files(one)) == 6 * 4
        assert [name for name in files(one) if content(one, name) != content(three, name)] == []

    def test_masks_maps_and_overlays_agree(self, bundle, pictures, windows):
        # in bfloat16 some logits of such weights are exactly 0, and 16 bits have no level for a probability of 0.5
        out = self.predict(bundle, pictures, 2, [*windows, "--precision", "float32"])
        stored = {path.stem: np.asarray(Image.open(path)) for path in pictures.iterdir()}
        assert stored
        masks = {name: np.asarray(Image.open(out / "masks" / f"{name}_seg.png")) for name in stored}
        assert {tuple(np.unique(mask)) for mask in masks.values()} == {(0, 255)}
        probs = {name: read_grey(out / "probs" / f"{name}_prob.png") for name in stored}
        assert [name for name in stored if not np.array_equal(probs[name] > 0.5, masks[name] > 0)] == []
        drawn = {name: Image.open(out / "drawn" / f"{name}_overlay.png") for name in stored}
        expected = {name: draw_overlay(stored[name], masks[name] > 0) for name in stored}
        assert [name for name in stored if not np.array_equal(drawn[name], expected[name])] == []
        assert {overlay.info["Software"] for overlay in drawn.values()} == {SIGNATURE}
        records = [json.loads((out / "masks" / f"{name}_seg.json").read_text())["overlay"] for name in stored]
        files = [out / "drawn" / f"{name}_overlay.png" for name in stored]
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        assert [(each["file"], each["sha256"]) for each in records] == [
            (path.name, digest) for path, digest in zip(files, digests, strict=True)
        ]


class TestErrors:
    """One bad image, or a bad disk, with several images under way."""

    def predict(self, bundle: Path, *words: object) -> int:
        return main(["predict", str(bundle), *map(str, words), "--device", "cpu", "--workers", "3"])

    def test_bad_pictures_are_named_in_their_order_and_stop_no_other(self, bundle, pictures, capsys):
        (pictures / "2.jpg").write_bytes(b"")
        (pictures / "4.jpg").write_bytes((pictures / "5.jpg").read_bytes()[:300])
        (pictures / "5.jpg").write_text("<html>")
        assert self.predict(bundle, pictures) == 3
        assert files(Path("masks")) == [f"{n}_seg.{kind}" for n in (1, 3, 6) for kind in ("json", "png")]
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert [(line.split()[1], Path(line.split()[2].rstrip(":")).name) for line in errors] == [
            ("EMPTY", "2.jpg"),
            ("TRUNCATED", "4.jpg"),
            ("DECODE", "5.jpg"),
        ]

    def test_a_number_sign_in_any_path_is_taken_as_it_is(self, bundle, pictures, tmp_path):
        digest = tiny_weights(tmp_path / "own#1" / "m#4.safetensors", seed=1)
        shutil.copy(pictures / "1.jpg", pictures / "case#1.jpg")
        knobs = ["--model_file", "../own#1/m#4.safetensors", "--features", str(FEATURES), "--picture_size", "[32, 32]"]
        assert self.predict(bundle, pictures / "case#1.jpg", "-o", "out#1", *knobs) == 0
        assert files(Path()) == ["out#1/case#1_seg.json", "out#1/case#1_seg.png"]
        assert json.loads(Path("out#1/case#1_seg.json").read_text())["model"]["sha256"] == digest

    @pytest.mark.parametrize("option", ["-o", "--probabilities", "--save-overlays"])
    def test_a_folder_that_cannot_be_is_said_before_anything_is_computed(self, bundle, pictures, option, capsys):
        assert self.predict(bundle, pictures, option, str(pictures / "1.jpg")) == 1
        said = capsys.readouterr()
        assert said.err.startswith(f"error: NOT_WRITABLE {pictures / '1.jpg'}: file exists")
        assert len(said.err.splitlines()) == 1
        assert files(Path()) == []

    def test_names_that_collide_are_refused_before_anything_is_computed(self, bundle, pictures, capsys):
        shutil.copy(pictures / "1.jpg", pictures / "1.jpeg")
        assert self.predict(bundle, pictures) == 2
        assert "NAME_COLLISION" in capsys.readouterr().err
        assert files(Path()) == []

    def test_an_image_that_is_not_as_its_list_of_sums_has_it_is_refused_and_the_others_are_done(
        self, bundle, pictures, capsys
    ):
        sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in pictures.glob("[12].jpg")]
        (pictures / "SHA256SUMS").write_text("".join(sums))
        content = bytearray((pictures / "2.jpg").read_bytes())
        content[-20] ^= 1  # in the last scan lines: it is decoded without a word
        (pictures / "2.jpg").write_bytes(content)
        call = ["predict", str(bundle), *(str(pictures / f"{name}.jpg") for name in (1, 2)), "--device", "cpu"]
        assert main([*call, "--manifest", str(pictures / "SHA256SUMS")]) == 3
        assert f"CHECKSUM {pictures / '2.jpg'}: sha256 " in capsys.readouterr().err
        assert files(Path()) == ["masks/1_seg.json", "masks/1_seg.png"]
        assert main(call) == 0
        capsys.readouterr()
        assert main([*call, "--manifest", str(pictures / "SHA256SUMS")]) == 3  # nor is its mask kept in silence
        assert f"CHECKSUM {pictures / '2.jpg'}: sha256 " in capsys.readouterr().err

    def test_a_full_disk_leaves_nothing_half_written(self, bundle, pictures, capsys):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))  # room for the masks, not for their records
        try:
            code = self.predict(bundle, pictures)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert code == 1
        assert capsys.readouterr().err.count("error: NO_SPACE") == 6
        assert files(Path("masks")) == [f"{n}_seg.png" for n in range(1, 7)]
        # masks without a record are not done
        assert self.predict(bundle, pictures) == 0
        assert len(files(Path("masks"))) == 12

    def test_overlays_are_of_pictures(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("ct.nii.gz").write_bytes(b"x")
        assert main(["predict", str(ROOT / "bundles" / "pancreas_nl"), "ct.nii.gz", "--save-overlays", "drawn"]) == 2
        assert "error: BAD_VALUE --save-overlays: a bundle for volumes" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("knob", "value", "code"),
        [
            ("device", "cuda:77", "DEVICE"),
            ("device", "tpu", "DEVICE"),
            ("picture_size", "[0,0]", "BAD_VALUE"),
            ("channel_std", "[0,0,0]", "BAD_VALUE"),
            ("overlap", "1.5", "BAD_VALUE"),
        ],
    )
    def test_a_wrong_option_is_refused_in_one_line_before_anything_is_computed(
        self, bundle, pictures, knob, value, code, capsys
    ):
        assert main(["predict", str(bundle), str(pictures), f"--{knob}", value]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {code} --{knob}")
        assert len(err.splitlines()) == 1
        assert files(Path()) == []

    def test_a_number_of_workers_is_one(self, bundle, pictures, capsys):
        assert main(["predict", str(bundle), str(pictures), "--workers", "0"]) == 2
        assert "error: BAD_VALUE --workers: 0" in capsys.readouterr().err


class TestStandingMasks:
    """The same command again."""

    def predict(self, bundle: Path, pictures: Path, *words: str) -> tuple[set[str], list[str]]:
        """The masks that were written, and the lines that begin with a number."""
        before = {path: path.stat().st_mtime_ns for path in Path().glob("masks/*.png")}
        assert main(["predict", str(bundle), str(pictures), "--device", "cpu", *words]) == 0
        written = {path.stem[0] for path in Path().glob("masks/*.png") if path.stat().st_mtime_ns != before.get(path)}
        return written, [line for line in self.capsys.readouterr().out.splitlines() if line[0].isdigit()]

    def test_only_what_is_stale_is_made_again_and_it_is_said_why(self, bundle, pictures, capsys):
        self.capsys = capsys
        assert self.predict(bundle, pictures)[0] == set("123456")
        assert self.predict(bundle, pictures)[1][0] == "6 skipped: the mask exists: same image, weights and settings"
        shutil.copy(pictures / "2.jpg", pictures / "1.jpg")
        Path("masks/3_seg.png").write_text("not a mask")
        Image.new("L", Image.open(pictures / "4.jpg").size).save("masks/4_seg.png")
        written, said = self.predict(bundle, pictures)
        assert written == {"1", "3"}
        assert said[:-1] == [
            "3 skipped: the mask exists: same image, weights and settings",
            "1 skipped: the mask was changed since it was written; --overwrite replaces it",
            "1 segmented again: another image",
            "1 segmented again: its mask is damaged",
        ]
        written, said = self.predict(bundle, pictures, "--min_area_px", "5")
        assert written == set("12356")
        assert "5 segmented again: made with min_area_px 0, now 5" in said


def names_behind(config: dict, name: str) -> set[str]:
    """What a part of a config refers to, and what that refers to."""
    seen, ahead = set(), [name]
    while ahead:
        found = {reference.split("::")[0] for reference in REFERENCE.findall(json.dumps(config[ahead.pop()]))}
        ahead += found - seen
        seen |= found
    return seen


@pytest.mark.parametrize("path", sorted(ROOT.glob("bundles/*/inference.json")), ids=lambda path: path.parent.name)
def test_a_record_has_every_setting_that_shapes_a_mask(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    no_shape = {
        *("inputs", "overwrite", "workers", "image_suffixes", "mask_suffix", "class_names"),
        *("device", "engine", "precision", "amp"),  # the record has them, or their choice, by themselves
        *("roi_size", "overlap", "mirror_axes", "region_tau", "region_margin"),  # and these
        *("sw_batch_size", "slices_per_batch", "load_keys", "labels"),
        *("refinement_dropout", "refinement_init", "crf_training_iterations"),  # of the training
        "grid_tolerance",  # of what is refused
        "in_channels",  # weights for others are refused
        *("bundle_root", "output_dir", "prob_dir", "overlay_dir", "mask_dir", "dataset_dir", "model_file"),
        "threshold_file",  # what it holds is recorded
    }
    config = read_config([path]).get()
    settings = config["settings"]
    assert all(value == f"@{name}" for name, value in settings.items())
    behind = names_behind(config, "evaluator")
    knobs = {name for name in behind if not isinstance(config[name], dict) and not str(config[name]).startswith("$")}
    assert knobs >= {"overlap", "out_channels" if "out_channels" in config else "spacing"}
    assert knobs - no_shape <= settings.keys()
