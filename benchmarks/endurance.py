"""What a batch, a full disk and damaged files do to results: the figures of docs/reliability.md.

    python benchmarks/endurance.py batch together disk fuzz --output docs/reliability.json

- `batch`: `medseg3d predict` on 200 scans, 20 of them bad, killed (SIGKILL) 20 times and begun again, against a run
  that nothing disturbs; and the memory and open files of the latter from case to case.
- `together`: two processes on one folder at once.
- `disk`: masks, probability maps, records, a checkpoint and a score table written to a disk that is full at 10 moments.
- `fuzz`: single flipped bytes in .nii.gz, in NIfTI headers, PNG, JPEG and TIFF: refused, unchanged, or changed
  in silence.

Nothing here is a measure of speed. Scans are small and the network's weights random: what is looked at are the files.
`disk` mounts a tmpfs, which needs root.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import safetensors.torch
import torch
from PIL import Image

from medseg3d.data.records import verify_results
from medseg3d.errors import UserError
from medseg3d.evaluation.files import SCORES_CSV, score_row
from medseg3d.files.tensors import read_tensors, save_tensors
from medseg3d.metrics import ConfusionCounts
from medseg3d.networks import SegResNetNL
from medseg3d.pictures.reading import read_picture
from medseg3d.volumes.reading import read_volume

ROOT = Path(__file__).parent.parent
SCANS, BAD, KILLS = 200, 20, 20
SHAPE = (24, 22, 16)
NETWORK = ["--init_filters", "8", "--roi_size", "[16,16,16]", "--spacing", "[4.0,4.0,4.0]", "--device", "cpu"]


def write_scans(folder: Path, scans: int, bad: int) -> list[str]:
    """Small CTs in `folder`, every so many of them bad in one of five ways; the names of the bad ones."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    spoiled = []
    for number in range(scans):
        path = folder / f"scan_{number:03d}.nii.gz"
        voxels = rng.normal(40, 60, SHAPE).round().astype(np.int16)
        kind = number // (scans // bad) % 5 if number % (scans // bad) == 0 else None
        if kind == 3:
            voxels = np.stack([voxels, voxels], -1)  # 4-D
        image = nib.Nifti1Image(voxels.astype(np.float32) if kind == 4 else voxels, np.diag([4.0, 4.0, 4.0, 1.0]))
        if kind == 4:
            np.asarray(image.dataobj)[0, 0, 0] = np.nan
        nib.save(image, path)
        content = bytearray(path.read_bytes())
        if kind == 0:
            content[len(content) // 2] ^= 0x10  # the checksum of gzip tells
        elif kind == 1:
            content = content[: len(content) // 2]
        elif kind == 2:
            content = bytearray()
        path.write_bytes(content)
        if kind is not None:
            spoiled.append(path.name.removesuffix(".nii.gz"))
    return spoiled


def write_weights(path: Path) -> None:
    """Random weights whose masks are neither empty nor full."""
    torch.manual_seed(0)
    network = SegResNetNL(init_filters=8).eval()
    path.write_bytes(safetensors.torch.save(network.state_dict()))


def predict(scans: Path, output: Path, weights: Path, *words: str) -> subprocess.Popen:
    """The command, begun in a process of its own, its output in a file beside the folder of masks."""
    command = [sys.executable, "-m", "medseg3d", "predict", "bundles/pancreas_nl", str(scans), "-o", str(output)]
    log = output.with_name(f"{output.name}.log").open("a")
    return subprocess.Popen(
        [*command, "--model_file", str(weights), *NETWORK, *words], cwd=ROOT, stdout=log, stderr=log
    )


def masks(folder: Path) -> dict[str, bytes]:
    """Name to content of every mask; raises if one is not whole."""
    found = {path.name: path.read_bytes() for path in sorted(folder.glob("*_seg.nii.gz"))}
    for content in found.values():
        gzip.decompress(content)
    return found


def finished(folder: Path) -> list[Path]:
    """The records that stand: one for each case that is done."""
    return list(folder.glob("*_seg.json"))


def not_as_recorded(*folders: Path) -> int:
    """How many files are not what their record says; a whole mask that has none yet is no such file."""
    return sum(each.code != "NO_RECORD" for each in verify_results(list(folders))[1])


def names(folder: Path) -> set[str]:
    """The names of all files of a folder."""
    return {path.name for path in folder.iterdir()}


def records(folder: Path) -> dict[str, Any]:
    """Name to content of every record, but for its times."""
    return {path.name: {**json.loads(path.read_text()), "seconds": None} for path in sorted(folder.glob("*_seg.json"))}


def batch(folder: Path) -> dict[str, Any]:
    """200 scans, 20 bad ones, 20 kills."""
    bad = write_scans(folder / "scans", SCANS, BAD)
    write_weights(folder / "model.safetensors")
    arguments = folder / "scans", folder / "model.safetensors"
    whole = predict(arguments[0], folder / "whole", arguments[1])
    seen = []
    while whole.poll() is None:
        try:
            process = psutil.Process(whole.pid)
            done = len(finished(folder / "whole"))
            seen.append((done, process.memory_info().rss / 2**20, process.num_fds()))
        except (psutil.Error, OSError):
            pass
        time.sleep(0.2)
    late = [(rss, files) for done, rss, files in seen if SCANS // 5 <= done < SCANS - BAD - 5]

    rng, standing, partial, unverified = random.Random(0), [], 0, 0
    for _ in range(KILLS):
        process = predict(arguments[0], folder / "killed", arguments[1])
        goal = min(len(finished(folder / "killed")) + rng.randint(2, 12), SCANS - BAD - 1)
        while len(finished(folder / "killed")) < goal and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (folder / "killed").is_dir():
            try:
                masks(folder / "killed")
            except (OSError, EOFError):
                partial += 1
            standing.append(len(finished(folder / "killed")))
            unverified += not_as_recorded(folder / "killed")
    last = predict(arguments[0], folder / "killed", arguments[1])
    last.wait()
    log = (folder / "whole.log").read_text()
    return {
        "scans": SCANS,
        "bad": len(bad),
        "exit codes": [whole.returncode, last.returncode],
        "masks": len(masks(folder / "whole")),
        "bad ones named": sum(f"{name}.nii.gz" in log for name in bad),
        "kills": KILLS,
        "cases finished at each kill": standing,
        "partial masks after a kill": partial,
        "records that did not verify after a kill": unverified,
        "masks equal to the undisturbed run": masks(folder / "killed") == masks(folder / "whole"),
        "records equal to the undisturbed run": records(folder / "killed") == records(folder / "whole"),
        "left over": sorted(
            {path.name for path in (folder / "killed").iterdir()} - {p.name for p in (folder / "whole").iterdir()}
        ),
        "most memory from case 40 on, above that at case 40, MiB": round(max(rss for rss, _ in late) - late[0][0], 1),
        "open files from case 40 on": sorted({files for _, files in late}),
    }


def together(folder: Path) -> dict[str, Any]:
    """Two processes on one folder."""
    bad = write_scans(folder / "scans", 60, 6)
    write_weights(folder / "model.safetensors")
    alone = predict(folder / "scans", folder / "alone", folder / "model.safetensors")
    alone.wait()
    both = [predict(folder / "scans", folder / "both", folder / "model.safetensors") for _ in range(2)]
    codes = [process.wait() for process in both]
    return {
        "scans": 60,
        "bad": len(bad),
        "exit codes": codes,
        "masks": len(masks(folder / "both")),
        "masks equal to those of one process": masks(folder / "both") == masks(folder / "alone"),
        "records that do not verify": not_as_recorded(folder / "both"),
    }


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[Path]:
    """A disk of that size."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def disk(folder: Path) -> dict[str, Any]:
    """A disk that is full at ten moments, for each kind of file."""
    write_scans(folder / "scans", 4, 1)
    for path in (folder / "scans").glob("scan_000*"):
        path.unlink()
    write_weights(folder / "model.safetensors")
    result: dict[str, Any] = {}
    outcome: Counter[str] = Counter()
    for kibibytes in range(4, 204, 20):
        with small_disk(folder / f"disk_{kibibytes}", kibibytes) as small:
            process = predict(
                folder / "scans", folder / f"log_{kibibytes}", folder / "model.safetensors",
                "--probabilities", str(small / "maps"), "--output_dir", str(folder / "run"), "-o", str(small / "masks"),
            )  # fmt: skip
            code = process.wait()
            whole = masks(small / "masks") if (small / "masks").is_dir() else {}
            for path in (small / "maps").rglob("*_prob.nii.gz"):
                gzip.decompress(path.read_bytes())
            differing = not_as_recorded(small / "masks", small / "maps") if records(small / "masks") else 0
            said = "NO_SPACE" in (folder / f"log_{kibibytes}.log").read_text()
            outcome[f"exit {code}, {'NO_SPACE said' if said else 'nothing said'}, {len(whole)} of 3 masks whole"] += 1
            outcome["records that do not verify"] += differing
    result["predict, mask + record + probability map"] = dict(outcome)
    state = {f"tensor_{number}": torch.rand(4096) for number in range(8)}  # 128 KiB
    counts = ConfusionCounts(tp=300, fp=20, fn=40, tn=9000)
    rows = [score_row(f"case_{number:04d}", "pancreas", counts) for number in range(1000)]
    kinds: dict[str, tuple[str, Callable[[Path], object], Callable[[Path], object]]] = {
        "checkpoint": ("epoch_00001.pt", lambda path: save_tensors(path, state), read_tensors),
        "score table": ("scores.csv", lambda path: SCORES_CSV.write(path, rows), lambda path: path.read_text()),
    }
    for kind, (name, write, read) in kinds.items():
        outcome = Counter()
        for kibibytes in range(140, 340, 20):
            with small_disk(folder / f"{name}_{kibibytes}", kibibytes) as small:
                path = small / name
                try:
                    write(path)
                    before = path.read_bytes()
                    write(path)  # now there is no room for a second one
                    outcome["written twice"] += 1
                except UserError as error:
                    intact = path.exists() and path.read_bytes() == before if path.exists() else None
                    state_of = {True: "the earlier one intact", None: "nothing left"}.get(intact, "DAMAGED")
                    outcome[f"{error.code}, {state_of}"] += 1
                if path.exists():
                    read(path)
                outcome["left over"] += sum(each.suffix not in (".pt", ".csv", ".sha256") for each in small.iterdir())
        result[kind] = dict(outcome)
    return result


def _volume() -> np.ndarray:
    return np.random.default_rng(1).normal(40, 60, (32, 32, 16)).round().astype(np.int16)


def _picture_file(form: str, **options: Any) -> bytes:
    rng = np.random.default_rng(2)
    smooth = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(smooth).save(stream, form, **options)
    return stream.getvalue()


def _nifti_file(compressed: bool) -> bytes:
    content = nib.Nifti1Image(_volume(), np.diag([2.0, 2.0, 4.0, 1.0])).to_bytes()
    return gzip.compress(content, mtime=0) if compressed else content


def fuzz(folder: Path, number: int = 300) -> dict[str, Any]:
    """Single flipped bits: what becomes of them."""
    folder.mkdir()
    volume: Callable[[Path], Any] = lambda path: (lambda array, header: (array, header.affine))(*read_volume(path))  # noqa: E731
    picture: Callable[[Path], Any] = lambda path: (read_picture(path),)  # noqa: E731
    kinds: dict[str, tuple[str, bytes, Callable[[Path], Any], int | None]] = {
        ".nii.gz": ("ct.nii.gz", _nifti_file(True), volume, None),
        "NIfTI header": ("ct.nii", _nifti_file(False), volume, 348),
        "NIfTI voxels, not compressed": ("ct.nii", _nifti_file(False), volume, None),
        "PNG": ("polyp.png", _picture_file("PNG"), picture, None),
        "JPEG": ("polyp.jpg", _picture_file("JPEG", quality=90), picture, None),
        "TIFF, LZW": ("polyp.tif", _picture_file("TIFF", compression="tiff_lzw"), picture, None),
        "TIFF, not compressed": ("polyp.tif", _picture_file("TIFF"), picture, None),
    }
    result = {}
    for kind, (name, content, read, end) in kinds.items():
        path = folder / name
        path.write_bytes(content)
        original = read(path)
        rng, outcome, slowest = random.Random(0), Counter({"refused": 0, "unchanged": 0, "changed": 0, "crash": 0}), 0.0
        for _ in range(number):
            damaged = bytearray(content)
            damaged[rng.randrange(end or len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            began = time.monotonic()
            try:
                found = read(path)
                same = all(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(found, original, strict=True))
                outcome["unchanged" if same else "changed"] += 1
            except UserError:
                outcome["refused"] += 1
            except Exception as error:
                outcome["crash"] += 1
                print(f"{kind}: {type(error).__name__}: {error}", flush=True)
            slowest = max(slowest, time.monotonic() - began)
        result[kind] = {**outcome, "slowest, s": round(slowest, 2)}
    return result


ARMS = {"batch": batch, "together": together, "disk": disk, "fuzz": fuzz}


def main() -> None:
    """Run the arms that are named and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="+", choices=ARMS)
    parser.add_argument("--output", type=Path, help="JSON file, to which arms are added")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in arguments.arms:
        folder = Path(tempfile.mkdtemp(prefix=f"endurance_{name}_"))
        try:
            found = ARMS[name](folder / "work") if name == "fuzz" else ARMS[name](folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(json.dumps({name: found}, indent=1), flush=True)
        if arguments.output:
            before = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
            arguments.output.write_text(json.dumps({**before, name: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
