"""Where bundles are: by path or by name, in a clone or installed, their config files and the weights they ship.

In the repository a bundle stands on what all have in common, the files of `bundles/_shared` that its configs name under
`base`, and its data lies below the repository's root, which it is run from. A bundle that is installed, copied or found
by its name is self-contained: what its configs stand on is in them, and it runs from any folder.

Imports nothing but the standard library: setup.py writes the bundles of the wheel with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg3d.errors import UsageError, UserError

CONFIGS = ("train.json", "evaluate.json", "inference.json")

INSTALLED = Path(__file__).parent / "bundles"
"""The bundles of a wheel, self-contained."""

REPOSITORY = Path(__file__).parent.parent
"""The root of the clone that an editable install, or a program run from it, belongs to."""

_SHARED = "_shared"
RUNNING_ROOT = {"_target_": "medseg3d.bundle.running_root"}


def bundle_folder(bundle: str | Path) -> Path:
    """The absolute path of a bundle's folder, from a path or from the name of one that comes with medseg3d.

    A folder wins over a name. A name is good in any directory, which is then where the bundle's relative paths start.

    Raises:
        UserError: `MISSING_BUNDLE` when it is neither a folder with a train.json or inference.json nor a name.
    """
    folder = Path(bundle).resolve()
    if any((folder / name).is_file() for name in CONFIGS):
        return folder
    names = bundle_names()
    if str(bundle) in names:
        return _named(str(bundle))
    there = sorted(path.parent.name for path in folder.parent.glob("*/train.json"))
    raise UsageError(
        "MISSING_BUNDLE",
        bundle,
        f"no folder with {' or '.join(CONFIGS)}, and no bundle of that name",
        f"the folder of a bundle or one of {', '.join(names)}",
        f"bundles there: {', '.join(there)}" if there else "",
    )


def bundle_names() -> list[str]:
    """The names of the bundles that come with medseg3d."""
    return sorted(path.parent.name for path in _home().glob("*/train.json"))


def source_folder(name: str) -> Path:
    """The folder of a bundle that comes with medseg3d, as it lies there: in a clone it is not self-contained."""
    return _home() / name


def _home() -> Path:
    return INSTALLED if INSTALLED.is_dir() else REPOSITORY / "bundles"


def _named(name: str) -> Path:
    """The installed bundle; of a clone the bundle itself at its root, elsewhere a self-contained copy of it.

    The copy is in `build/bundles` of the clone, under the sum of all that it is made of, and made once.

    Raises:
        UserError: `NOT_WRITABLE` when it cannot be made there.
    """
    source = source_folder(name)
    if INSTALLED.is_dir() or Path.cwd() == REPOSITORY:
        return source
    target = REPOSITORY / "build" / "bundles" / _sum_of(source, source.parent / _SHARED)[:12] / name
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
            write_self_contained(source, Path(folder) / name)
            with contextlib.suppress(FileExistsError, NotADirectoryError):
                os.rename(Path(folder) / name, target)
    except OSError as error:
        if not target.is_dir():  # another process may have been first
            remedy = f"run from {REPOSITORY}, or install medseg3d itself instead of a link to it"
            raise UserError("NOT_WRITABLE", target, str(error), "a folder to write to", remedy) from error
    return target


def _sum_of(*folders: Path) -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())  # what makes it counts too
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def write_self_contained(source: Path, target: Path) -> None:
    """Copy a bundle so that it needs nothing beside it and runs from any folder.

    Its configs hold what they stand on and what each `%` leads to, and `bundle_root` is found out when a run begins.

    Args:
        source: the bundle's folder, in a repository or self-contained already.
        target: a folder that is not there yet.
    """
    shutil.copytree(source, target)
    for path in sorted(source.glob("*.json")):
        if path.name != "metadata.json":
            write_json(target / path.name, self_contained(path))
    if (source.parent / _SHARED).is_dir():
        shutil.copy(log_format(source), target)
        shutil.copy(source.parent.parent / "LICENSE", target)


def self_contained(file: Path) -> dict[str, Any]:
    """A config or an overlay of a bundle that needs no other file; see `write_self_contained`."""
    config = completed(read_json(file), file.parent)
    config = _without_paths(config, config, bundle_root(file.parent))
    if "_desc_" in config:
        config["_desc_"] = _described(config["_desc_"], file.parent.name)
    if "begin" in config:
        config["initialize"] = config.pop("begin")
    return {**config, "bundle_root": RUNNING_ROOT} if "bundle_root" in config else config


def _described(text: str | list[str], name: str) -> str | list[str]:
    if isinstance(text, list):
        return [str(_described(line, name)) for line in text if "`base`" not in line]
    return text.replace("From the root of the repository: ", "").replace(f"bundles/{name}/", f"{name}/")


def _without_paths(value: Any, config: Mapping[str, Any], root: Path) -> Any:
    """A value with what each `%` in it leads to in its place; what is shared holds none itself."""
    if isinstance(value, dict):
        return {name: _without_paths(each, config, root) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_paths(each, config, root) for each in value]
    if not isinstance(value, str) or not value.startswith("%"):
        return value
    file, _, key = value[1:].rpartition(".json::")
    found: Any = read_json(root / f"{file}.json") if file else config
    for name in key.split("::"):
        found = found[name]
    return _without_paths(found, config, root)


def completed(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A config on top of what it names under `base`: files, or `FILE::NAME` for a part of one, later ones on top.

    A component, which has a `_target_`, replaces what is below it; any other object adds to it, as deep as it goes.

    Args:
        config: the content of a file.
        folder: where the paths under its `base` start from.

    Raises:
        OSError: a file cannot be read.
        ValueError: it holds no JSON.
        KeyError: it has no such part.
    """
    below: dict[str, Any] = {}
    for name in config.get("base", []):
        file, _, part = name.partition("::")
        path = folder / file
        content = read_json(path)
        below = _on_top(below, completed(content[part] if part else content, path.parent))
    return _on_top(below, {name: value for name, value in config.items() if name != "base"})


def _on_top(below: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    whole = {**below, **config}
    for name, value in config.items():
        if isinstance(value, dict) and isinstance(below.get(name), dict) and "_target_" not in value:
            whole[name] = _on_top(below[name], value)
    return whole


def copy_bundle(bundle: str | Path, folder: str | Path) -> Path:
    """Copy a bundle, self-contained, to `folder/NAME`, and return that.

    Raises:
        UserError: `MISSING_BUNDLE`; `NOT_EMPTY` when something is there; `NOT_WRITABLE`.
    """
    source = source_folder(str(bundle)) if str(bundle) in bundle_names() else bundle_folder(bundle)
    target = Path(folder) / source.name
    if target.exists():
        raise UsageError("NOT_EMPTY", target, "existing files", "a new folder", "choose another DIR")
    try:
        write_self_contained(source, target)
    except OSError as error:
        raise UserError("NOT_WRITABLE", target, str(error), "a folder to write to", "name another folder") from error
    return target


def config_files(folder: Path, name: str, overlays: Sequence[str] = ()) -> list[Path]:
    """The config `name` of a bundle and its overlays: in order, later ones winning.

    Args:
        folder: the bundle's folder.
        name: `train.json`, `evaluate.json` or `inference.json`.
        overlays: names of overlays beside it, without `.json`.

    Raises:
        UserError: `MISSING_OVERLAY`, with the overlays there are.
    """
    files = [folder / f"{overlay}.json" for overlay in overlays]
    for path in files:
        if not path.is_file():
            others = {*CONFIGS, "metadata.json"}
            known = ", ".join(sorted(path.stem for path in folder.glob("*.json") if path.name not in others))
            raise UsageError(
                "MISSING_OVERLAY", path.stem, f"no {path.name} in {folder}", f"one of {known}", "correct the name"
            )
    return [folder / name, *files]


def bundle_root(folder: Path) -> Path:
    """The directory that a bundle's relative paths start from: its repository's root, else the current directory.

    Example:
        >>> bundle_root(Path("bundle_of_mine")) == Path.cwd()
        True
    """
    return folder.parent.parent if (folder.parent / _SHARED).is_dir() else Path.cwd()


def names_from_root(files: Sequence[Path]) -> list[str]:
    """Config files as a command that starts in their `bundle_root` names them, with `/` on Windows too: MONAI's command
    line would take a back-slash for the beginning of an escape.
    """
    root = bundle_root(files[0].parent)
    return [(path.relative_to(root) if path.is_relative_to(root) else path).as_posix() for path in files]


def log_format(folder: Path) -> Path:
    """The file that says how the log of a bundle's runs looks."""
    shared = folder.parent / _SHARED
    return (shared if shared.is_dir() else folder) / "logging.conf"


@contextlib.contextmanager
def bundle_directory(folder: Path) -> Iterator[Path]:
    """Context in which the current directory is the `bundle_root` of a bundle."""
    root = bundle_root(folder)
    before = Path.cwd()
    os.chdir(root)
    try:
        yield root
    finally:
        os.chdir(before)


@dataclass(frozen=True)
class ShippedWeights:
    """Weights that come with a bundle.

    Attributes:
        overlay: the overlay that names them, without `.json`, and the knobs they were trained with.
        file: the weights.
        sha256: of the file, as hexadecimal digits.
        knobs: the values that the overlay sets, but for `model_file` and what it computes or takes from other files.
    """

    overlay: str
    file: Path
    sha256: str
    knobs: Mapping[str, Any]

    def __str__(self) -> str:
        knobs = "".join(f", {name} {value}" for name, value in self.knobs.items())
        return f"{self.overlay}: {self.file}, sha256 {self.sha256[:12]}{knobs}"


def shipped_weights(folder: Path) -> ShippedWeights | None:
    """The weights that a bundle says it ships, under `shipped_weights` in its metadata.json; None if it ships none.

    That is the name of an overlay and of the weights in `models` alike.

    Args:
        folder: the bundle's folder.

    Raises:
        UserError: `MISSING_OVERLAY` or `MISSING_WEIGHTS`, when what the metadata promises is not there.
    """
    metadata = folder / "metadata.json"
    overlay = read_json(metadata).get("shipped_weights") if metadata.is_file() else None
    if overlay is None:
        return None
    knobs = read_json(config_files(folder, "inference.json", [overlay])[-1])
    file = folder / "models" / f"{overlay}.safetensors"
    if not file.is_file():
        raise UserError(
            "MISSING_WEIGHTS",
            file,
            "no such file",
            f"the weights that {folder.name} ships",
            "restore the file from the repository, or name your own weights with --model_file",
        )
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    own = {name: value for name, value in knobs.items() if name not in ("_desc_", "model_file")}
    values = {name: value for name, value in own.items() if not re.match(r"[%$]|\{", str(value))}
    return ShippedWeights(overlay, file, sha256, values)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that people read."""
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
