"""Every config of every bundle: complete, resolvable, and true to the conventions of the project."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle.properties import InferProperties, TrainProperties
from monai.utils import BundlePropertyConfig

from medseg3d.bundle import read_config
from medseg3d.checks import check_config
from medseg3d.data.mask_folders import VOLUME_SUFFIXES
from medseg3d.pictures.reading import PICTURE_SUFFIXES

ROOT = Path(__file__).parent.parent.parent
RUNS = sorted(path for name in ("train", "evaluate", "inference") for path in ROOT.glob(f"bundles/*/{name}.json"))
NOT_CONFIGS = {"train", "evaluate", "inference", "metadata"}
OVERLAYS = sorted(path for path in ROOT.glob("bundles/[!_]*/*.json") if path.stem not in NOT_CONFIGS)


def identity(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", RUNS, ids=identity)
def test_every_reference_and_target_leads_somewhere(path):
    assert [str(problem) for problem in check_config(read_config([path]), path.name)] == []


@pytest.mark.parametrize("overlay", OVERLAYS, ids=identity)
@pytest.mark.parametrize("name", ["train", "evaluate", "inference"])
def test_an_overlay_fits_every_run(overlay, name):
    path = overlay.with_name(f"{name}.json")
    assert [str(problem) for problem in check_config(read_config([path, overlay]), overlay.name)] == []


@pytest.mark.parametrize("path", RUNS + OVERLAYS, ids=identity)
def test_folders_of_pictures_are_read_alike_by_every_door(path):
    suffixes = read_config([path]).get("image_suffixes")
    assert suffixes is None or tuple(suffixes) in (PICTURE_SUFFIXES, VOLUME_SUFFIXES)


@pytest.mark.parametrize("path", [path for path in RUNS if path.stem != "train"], ids=identity)
def test_evaluation_and_inference_hold_no_number_of_their_own(path):
    def numbers(value, key=""):
        if isinstance(value, bool):
            return []
        if isinstance(value, (int, float)):
            return [key]
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [found for name, each in inner for found in numbers(each, f"{key}::{name}")]

    assert set(numbers(json.loads(path.read_text()))) <= {"::workers"}


@pytest.mark.parametrize("path", RUNS, ids=identity)
def test_one_knob_is_the_precision_of_every_run(path):
    parser = read_config([path])
    config = parser.get()
    assert (config["precision"], config["amp"]) == ("auto", None)
    users = (config["inferer"], config["train"]["trainer"])
    assert [each["precision"] for each in users] == ["@chosen_precision"] * 2


@pytest.mark.parametrize("path", [path for path in RUNS if path.stem == "train"], ids=identity)
def test_no_validation_takes_logits_that_are_not_finite_for_a_mask(path):
    config = read_config([path]).get()
    assert config["validate"]["postprocessing"] == {
        "_target_": "medseg3d.transforms.LogitsToLabelsd",
        "keys": "pred",
        "error_key": "error",
    }
    assert config["train"]["trainer"]["max_skipped_steps"] == "@max_skipped_steps"


@pytest.mark.parametrize("path", [*RUNS, *OVERLAYS], ids=identity)
def test_every_config_says_what_it_is(path):
    assert json.loads(path.read_text())["_desc_"]


@pytest.mark.parametrize("path", [*RUNS, *sorted(ROOT.glob("bundles/_shared/*.json"))], ids=identity)
def test_what_a_config_stands_on_is_under_its_base_alone(path):
    assert [line for line in path.read_text().splitlines() if '"%' in line and ".json" in line] == []


@pytest.mark.parametrize("bundle", ["pancreas_nl", "pancreas_nl_2d"])
@pytest.mark.parametrize("name", ["unetr", "swinunetr", "umambaenc"])
def test_the_compared_networks_change_nothing_but_the_network(bundle, name):
    overlay = json.loads((ROOT / f"bundles/{bundle}/{name}.json").read_text())
    assert set(overlay) == {"_desc_", "output_dir", "network_def"}


def lines_of(paths, bundle: str = "bundles/_shared") -> list[str]:
    """All lines of configs but brackets, without the bundle's name."""
    lines = [line.strip().rstrip(",") for path in paths for line in path.read_text().splitlines()]
    return [line.replace(bundle, "BUNDLE") for line in lines if len(line) > 3]


def test_the_configs_are_short_and_say_most_things_once():
    shared = sorted(ROOT.glob("bundles/_shared/*.json"))
    assert sum(len(path.read_text().splitlines()) for path in [*RUNS, *shared]) <= 850
    bundles = {
        folder.name: lines_of((path for path in RUNS if path.parent == folder), folder.name)
        for folder in {path.parent for path in RUNS}
    }
    counted = [line for lines in bundles.values() for line in lines] + lines_of(shared)
    recurring = [
        line
        for name, lines in bundles.items()
        for line in lines
        if any(line in others for other, others in bundles.items() if other != name)
    ]
    assert len(recurring) / len(counted) <= 0.3


@pytest.mark.parametrize("path", RUNS, ids=identity)
def test_what_a_run_is_made_of_is_open_to_a_deep_override(path):
    config = json.loads(path.read_text())
    deep = ["network_def", "image_chain", "inferer", "clean"]
    if path.stem == "train":
        deep += ["augmentation", "loss", "optimizer"]
        assert {"preprocessing", "dataset", "dataloader", "inferer", "trainer"} <= config["train"].keys()
        assert {"preprocessing", "dataset", "best_model", "evaluator"} <= config["validate"].keys()
    else:
        deep += ["preprocessing", "dataset", "postprocessing", "evaluator"]
    assert [name for name in deep if not isinstance(config.get(name), dict)] == []


@pytest.mark.parametrize("path", RUNS, ids=identity)
def test_monai_finds_every_property_where_it_looks_for_it(path):
    """`ConfigWorkflow.check_properties` wants the property itself or an expression, and stumbles over anything else."""
    parser = read_config([path])
    properties = TrainProperties if path.stem == "train" else InferProperties
    places = {
        each[BundlePropertyConfig.REF_ID]: each[BundlePropertyConfig.ID]
        for each in properties.values()
        if BundlePropertyConfig.REF_ID in each
    }
    found = {place: (parser.get(place), f"@{name}") for place, name in places.items() if place and place in parser}
    assert len(found) >= 2
    assert [place for place, (value, name) in found.items() if value != name and not value.startswith("$")] == []


def test_there_is_one_format_of_the_log():
    assert [path.parent.name for path in ROOT.glob("bundles/*/logging.conf")] == ["_shared"]


def network_of(bundle: str, *overlays: str, **knobs: object):
    parser = read_config([f"bundles/{bundle}/{name}.json" for name in ("train", *overlays)], knobs)
    parser.parse()
    return parser.get_parsed_content("network_def")


@pytest.mark.parametrize(
    ("bundle", "overlays", "knobs", "count"),
    [
        ("pancreas_nl", (), {}, 4_767_090),
        ("pancreas_nl", (), {"nonlocal_blocks": 0}, 4_700_914),
        ("pancreas_nl_2d", (), {}, 6_562_530),
        ("pancreas_nl_2d", (), {"nonlocal_blocks": 0}, 6_299_106),
        ("pancreas_nl_2d", ("image_folder",), {"nonlocal_blocks": 4}, 6_825_954),
        ("pancreas_nl_2d", ("unetr",), {}, 87_558_402),
        ("pancreas_nl_2d", ("swinunetr",), {}, 25_139_324),
        ("pancreas_nl_2d", ("umambaenc",), {}, 38_694_610),
        ("pancreas_nl", ("umambaenc",), {}, 22_808_642),
    ],
)
def test_the_networks_have_the_parameters_of_the_protocol(bundle, overlays, knobs, count):
    network = network_of(bundle, *overlays, **knobs)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_the_pancreas_bundles_agree_where_they_mean_the_same():
    three, two = (read_config([f"bundles/{name}/train.json"]).get() for name in ("pancreas_nl", "pancreas_nl_2d"))
    own = {"init_filters", "roi_size", "crops_per_case", "batch_size", "learning_rate", "sw_batch_size", "spacing"}
    own |= {"bundle_root", "output_dir", "network_def", "in_channels", "crops", "augmentation", "inferer", "clean"}
    own |= {"region_tau", "region_margin"}
    assert [key for key in three.keys() - own - {"_desc_"} if two[key] != three[key]] == []
    assert two["spacing"][:2] == three["spacing"][:2]


def test_the_split_is_the_papers():
    knobs = json.loads((ROOT / "bundles/pancreas_nl/train.json").read_text())
    assert (281 - knobs["test_cases"], knobs["test_cases"]) == (257, 24)
    assert knobs["val_cases"] > 0
