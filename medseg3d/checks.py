"""Everything about a bundle and its data that can be found wrong without training."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from medseg3d.bundle import argument_error, read_config, refuse_absent_device, target_of
from medseg3d.bundle_folders import CONFIGS, bundle_directory, bundle_folder, config_files
from medseg3d.data.msd import read_msd
from medseg3d.data.picture_folders import data_sets, split_pictures
from medseg3d.data.splits import PARTS, Split, read_split
from medseg3d.data.verify import verify_msd
from medseg3d.data.volume_splits import split_of_volumes
from medseg3d.errors import UsageError, UserError, find_user_error
from medseg3d.inference import load_weights
from medseg3d.memory import available_memory
from medseg3d.networks import CRFasRNN
from medseg3d.training.losses import AlternatingObjectives
from medseg3d.training.pretrained import find_initial_weights, find_weights
from medseg3d.training.trainer import part_of_batch
from medseg3d.transforms import LoadPictured, ResampleVolumed, check_patch_fill
from medseg3d.volumes.reading import read_header

_MONAI = (
    "data",
    "engines",
    "handlers",
    "inferers",
    "losses",
    "metrics",
    "networks",
    "optimizers",
    "transforms",
    "visualize",
)
ALLOWED_TARGETS = (
    *("medseg3d.", "torch.nn.", "torch.optim.", "ignite."),
    *(f"monai.{module}." for module in _MONAI),
    "monai.utils.misc.set_determinism",
)
"""Prefixes of what a config may call; a short name is MONAI's. Missing on purpose: what loads code (`torch.hub`) or
starts programs (`monai.bundle`)."""

REFERENCE = re.compile(r"@([\w#:]+)")


@dataclass
class CheckResult:
    """What `check_bundle` found.

    Attributes:
        passed: one sentence per check that passed.
        problems: everything that is wrong.
        expressions: each `$` expression, Python that runs when the bundle is used, with the file and the key of it.
    """

    passed: list[str] = field(default_factory=list)
    problems: list[UserError] = field(default_factory=list)
    expressions: list[str] = field(default_factory=list)


def check_bundle(
    bundle: str | Path,
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
) -> CheckResult:
    """Check the configs of a bundle, its data, split, network and weights, and collect every problem.

    Found here: misspelt knobs and impossible values; `%` and `@` that lead nowhere; `_target_`s that do not exist, are
    not allowed or do not take their arguments; a data set that is missing or has any error that `verify_msd` knows, or
    an image or mask that cannot be read or paired; a split that does not fit; volumes too small for the patch; a
    network that cannot take the patch; weights of another network, or of another encoder; patterns of parameters that
    match none; losses whose turns the epochs do not fit; a device that is not there; a cache that will not fit.

    Args:
        bundle: the bundle's folder.
        overlays: names of overlays next to train.json, without `.json`.
        overrides: knob -> value.
        allow: packages besides `ALLOWED_TARGETS` that a `_target_` may be of, for instance `mylab`.

    Raises:
        UserError: only `MISSING_BUNDLE` and `MISSING_OVERLAY`; all else is in the report.
    """
    folder = bundle_folder(bundle)
    files = {name: config_files(folder, name, overlays) for name in CONFIGS}
    report = CheckResult()
    with bundle_directory(folder):
        parsers = {}
        for name in CONFIGS:
            if not (folder / name).is_file():
                continue
            try:
                parsers[name] = read_config(files[name], overrides)
                refuse_absent_device(parsers[name])
            except UserError as error:
                report.problems.append(error)
                if isinstance(error, UsageError):
                    return report  # the same for every file
                continue
            problems = list(check_config(parsers[name], name, allow))
            report.expressions += [
                f"{name} {key}: {value}"
                for key, value in _leaves(parsers[name].get())
                if isinstance(value, str) and value.startswith("$")
            ]
            report.problems += problems
            if not problems:
                report.passed.append(f"{name}: all options, references and targets are known")
        if "train.json" in parsers and not report.problems:
            _check_training(parsers["train.json"], report)
    return report


def check_config(parser: ConfigParser, name: str, allow: Sequence[str] = ()) -> Iterator[UserError]:
    """What is wrong with a merged config by itself: references, targets and their arguments.

    Args:
        parser: as `medseg3d.bundle.read_config` gives it.
        name: the config's name, for the messages.
        allow: as for `check_bundle`.

    Yields:
        `BAD_REFERENCE`, `BAD_TARGET` and `BAD_ARGUMENT` errors.
    """
    allowed = (*ALLOWED_TARGETS, *(f"{package.rstrip('.')}." for package in allow))
    for key, value in _leaves(parser.get()):
        if isinstance(value, str):
            if value.startswith("%"):
                yield UserError(
                    "BAD_REFERENCE", f"{name} {key}", value, "a % reference to an existing file and key", "correct it"
                )
            if value.startswith(("@", "$")):
                for reference in REFERENCE.findall(value):
                    if not _exists(parser, reference):
                        yield UserError(
                            "BAD_REFERENCE",
                            f"{name} {key}",
                            f"@{reference}",
                            "an id that exists in the config",
                            "correct it",
                        )
        elif isinstance(value, Mapping) and "_target_" in value:
            yield from _target_problems(allowed, f"{name} {key}", value)


def _target_problems(allowed: tuple[str, ...], where: str, config: Mapping[str, Any]) -> Iterator[UserError]:
    target = str(config["_target_"])
    dotted, function = target_of(config)
    if function is None:
        yield UserError(
            "BAD_TARGET", where, f"_target_ {target}", "a class or function that can be imported", "correct it"
        )
        return
    home = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"  # not where it is passed on
    if not (home if dotted.startswith("monai.") else dotted).startswith(allowed):
        wanted = f"one from {', '.join(prefix.rstrip('.') for prefix in allowed)}"
        yield UserError("BAD_TARGET", where, f"_target_ {target}", wanted, "if you trust its package: --allow PACKAGE")
        return
    errors = (argument_error(config, argument, where) for argument in config)
    yield from (error for error in errors if error is not None)


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield key, value
        for name, inner in value.items():
            if name != "_desc_":
                yield from _leaves(inner, f"{key}::{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{key}::{index}")
    else:
        yield key, value


def _exists(parser: ConfigParser, reference: str) -> bool:
    try:
        parser[reference.replace("#", "::").rstrip(":")]
    except (KeyError, IndexError, ValueError, TypeError):
        return False
    return True


def _check_training(parser: ConfigParser, report: CheckResult) -> None:
    parser.parse(reset=True)
    first = (_check_device, _check_network, _check_weights, _check_start)
    for check in (*first, _check_augmentation, _check_loss, _check_data):
        try:
            report.passed += check(parser)
        except CheckError as failed:
            report.problems += failed.errors
        except Exception as error:
            user_error = find_user_error(error)
            if user_error is None:
                raise
            report.problems.append(user_error)


class CheckError(Exception):
    """Several errors at once."""

    def __init__(self, errors: Sequence[UserError]) -> None:
        super().__init__(*errors)
        self.errors = list(errors)


def _check_device(parser: ConfigParser) -> list[str]:
    return [
        f"device {parser.get_parsed_content('device')} is there",
        f"it computes in {parser.get_parsed_content('chosen_precision')}",
    ]


def _check_network(parser: ConfigParser) -> list[str]:
    roi_size = list(parser.get_parsed_content("roi_size"))
    in_channels = parser.get_parsed_content("in_channels") if "in_channels" in parser else 1
    try:
        network = parser.get_parsed_content("network_def")
        count = sum(parameter.numel() for parameter in network.parameters())
        network.eval()  # training mode refuses to normalise the one pixel of a pooled image
        # shapes alone, but where they follow from values, as those of a CRF's lattice do
        device = "cpu" if any(isinstance(module, CRFasRNN) for module in network.modules()) else "meta"
        with torch.inference_mode():
            channels = network.to(device)(torch.zeros(1, in_channels, *roi_size, device=device)).shape[1]
        if device == "meta":
            _check_smallest_part(network, parser, in_channels)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            "NETWORK",
            "--roi_size and the network's options",
            _cause(error),
            f"a network that takes patches of {roi_size}",
            "change --roi_size or the network's options",
        ) from error
    finally:
        parser.parse(reset=True)  # the network on the meta device must not be used again
    classes = parser.get_parsed_content("num_classes")
    if channels != classes and (channels, classes) != (1, 2):  # one logit tells two classes apart
        raise UserError(
            "NETWORK", "--num_classes", f"{channels} output channels", f"{classes} classes", "give both the same number"
        )
    return [f"the network has {count:,} parameters and takes patches of {'x'.join(map(str, roi_size))}"]


def _check_smallest_part(network: torch.nn.Module, parser: ConfigParser, in_channels: int) -> None:
    """Refuse parts of a batch that the network cannot train on: one case, which no other helps to normalise."""
    knob = parser.get_parsed_content
    batch_size, at_a_time = knob("batch_size"), knob("micro_batch_size") if "micro_batch_size" in parser else 0
    batch_size *= knob("crops_per_case") if "crops_per_case" in parser else 1
    smallest = batch_size % at_a_time or at_a_time if 0 < at_a_time < batch_size else batch_size
    if smallest > 1:
        return
    size = knob("picture_size") if "picture_size" in parser else None
    size = size if isinstance(size, Sequence) else knob("roi_size")
    case = torch.zeros(smallest, in_channels, *size, device="meta")
    with part_of_batch(smallest, batch_size, at_a_time), torch.inference_mode():
        network.train()(case)


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]


def _check_weights(parser: ConfigParser) -> list[str]:
    model_file = Path(parser.get_parsed_content("model_file"))
    if not model_file.exists():
        return [f"no weights yet at {model_file}"]
    load_weights(parser.get_parsed_content("network_def"), model_file, "cpu")
    return [f"{model_file} holds weights of this network"]


def _check_start(parser: ConfigParser) -> list[str]:
    """What a training begins with otherwise than with random weights that all learn at one rate."""
    knobs = ("pretrained", "init_from", "freeze", "lr_factors")
    given = {knob: value for knob in knobs if knob in parser and (value := parser.get_parsed_content(knob))}
    if not given:
        return []
    parser.get_parsed_content("optimizer")
    finders = {
        "weights of this network's encoder": (find_weights, given.get("pretrained")),
        "weights of this network": (find_initial_weights, given.get("init_from")),
    }
    return [f"{find(weights)} holds {what}" for what, (find, weights) in finders.items() if weights]


def _check_augmentation(parser: ConfigParser) -> list[str]:
    """Whether what is to be done to whole batches can be."""
    knob = "train::augmentation"
    if knob not in parser or parser.get_parsed_content(knob).on_device is None:
        return []
    return ["random changes are made on the device, to a batch at a time"]


def _check_loss(parser: ConfigParser) -> list[str]:
    loss = parser.get_parsed_content("loss") if "loss" in parser else None
    if not isinstance(loss, AlternatingObjectives):
        return []
    loss.check_epochs(parser.get_parsed_content("epochs"))
    return [f"the losses of {' and '.join(each.name for each in loss.objectives)} take turns"]


def _check_data(parser: ConfigParser) -> list[str]:
    reads_pictures = "cases" in parser and parser.get_parsed_content("cases").func is split_pictures
    return _check_pictures(parser) if reads_pictures else _check_volumes(parser)


def _check_pictures(parser: ConfigParser) -> list[str]:
    knob = parser.get_parsed_content
    cases = [case for part in PARTS for case in knob("cases")(part=part)]
    load, problems = LoadPictured(["image", "label"]), []
    for case in cases:
        try:
            load(case)
        except UserError as error:
            problems.append(error)
    if problems:
        raise CheckError(problems)
    folders, split_files = zip(*data_sets(knob("dataset_dir"), knob("split_file")), strict=True)
    size = knob("picture_size")
    pixels = math.prod(size) if isinstance(size, Sequence) else size**2
    needed = len(cases) * 13 * pixels  # three channels of float32 and a uint8 label
    return [
        f"{len(cases)} images in {', '.join(map(str, folders))} are sound",
        *(_split_sentence(read_split(split_file)) for split_file in split_files),
        _cache_sentence("pictures", needed, knob("cache_memory")),
    ]


def _check_volumes(parser: ConfigParser) -> list[str]:
    knob = parser.get_parsed_content
    verified = verify_msd(knob("dataset_dir"), grid_tolerance=knob("grid_tolerance"))
    problems = list(verified.errors)
    unknown = sorted(set(verified.label_values) - set(knob("labels")))
    if unknown:
        problems.append(
            UserError(
                "LABEL_SET",
                verified.folder,
                f"label values {unknown}",
                f"those of --labels, {knob('labels')}",
                "name all values with --labels, or correct the label files",
            )
        )
    if problems:
        raise CheckError(problems)
    dataset = read_msd(knob("dataset_dir"))
    split = split_of_volumes(dataset, knob("split_file"), knob("test_cases"), knob("val_cases"), knob("split_seed"))
    roi_size = knob("roi_size")
    voxels = 0
    for case in dataset.cases:
        header = read_header(case["image"])
        shape = ResampleVolumed("image", knob("spacing")).grid(header.shape, header.affine)[0]
        check_patch_fill(shape[: len(roi_size)], roi_size, case["image"])
        voxels += math.prod(shape)
    needed = voxels * 5  # float32 image and uint8 label
    return [
        f"{len(dataset.cases)} cases in {knob('dataset_dir')} are sound",
        _split_sentence(split),
        _cache_sentence("volumes", needed, knob("cache_memory")),
    ]


def _split_sentence(split: Split) -> str:
    sizes = f"{len(split.train)} training, {len(split.val)} validation, {len(split.test)} test"
    groups = ", ".join(str(split.count(part)) for part in PARTS)
    return f"split {split.hash[:12]}: {sizes}" + (f" of {groups} patients" if split.groups else "")


def _cache_sentence(what: str, needed: int, memory_fraction: float) -> str:
    budget = memory_fraction * available_memory()
    fits = f"fit in the cache ({needed / 2**30:.1f} of {budget / 2**30:.1f} GiB)"
    return (
        f"the {what} {fits}"
        if needed <= budget
        else f"the {what} do not all {fits}: the rest is prepared anew each epoch"
    )
