"""Cases in worker processes: what is asked of Ray on a stand-in, and whole runs on Ray itself."""

from __future__ import annotations

import json
import os
import pickle
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from commands import ROOT
from picture_runs import FEATURES, polyp_folder, tiny_weights
from ray_runs import own_process, predicted, ray_processes

from medseg3d.errors import UsageError, UserError
from medseg3d.inference import RayWorkers, cluster
from medseg3d.inference.cluster import Refusal, Worker
from medseg3d.inference.predictor import Failure


class RayError(Exception):
    """What the stand-in raises for a worker that died."""


class StandIn:
    """Ray's functions as `RayWorkers` calls them; workers live here, and a call is done when it is waited for."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, *resources: dict[str, float]) -> None:
        self.resources = resources
        self.started: list[dict[str, Any]] = []
        self.killed: list[Any] = []

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": each} for each in self.resources]

    def remote(self, **options: float) -> Any:
        self.started.append(options)
        return lambda kind: SimpleNamespace(remote=lambda *arguments: Handle(kind(*arguments)))

    def wait(self, calls: list[Any], timeout: float | None) -> tuple[list[Any], list[Any]]:
        return calls[:1], calls[1:]

    def get(self, call: Any) -> Any:
        return call()

    def kill(self, worker: Any) -> None:
        self.killed.append(worker)


class Handle:
    """An actor's handle: its methods have a `remote` that gives a call."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._worker, name)
        return SimpleNamespace(remote=lambda *arguments: lambda: method(*arguments))


class Predictor:
    """In place of a `CasePredictor`: a case is `{"image": name, "size": n}`, and says what it does."""

    def __init__(self, begun: list[str], precision: str = "float32") -> None:
        self.begun = begun
        self.precision = precision

    def made_with(self) -> dict[str, Any]:
        return {"inference": {"precision": self.precision, "overlap": 0.5}}

    def attempt(self, item: dict[str, Any]) -> dict[str, Any] | Failure:
        self.begun.append(item["image"])
        if item["image"] == "deadly" or (item["image"] == "deadly once" and self.begun.count(item["image"]) == 1):
            raise RayError("The actor died unexpectedly.\nThe reason: end of file")
        if item["image"] == "empty":
            return Failure(item, UserError("EMPTY", "empty", "0 bytes"))
        return {"case": item["image"]}


def size(item: dict[str, Any]) -> int:
    return item["size"]


def cases(*images: str) -> list[dict[str, Any]]:
    return [{"image": image, "size": number} for number, image in enumerate(images)]


@pytest.fixture
def ray(monkeypatch) -> StandIn:
    stand_in = StandIn({"CPU": 4.0})
    monkeypatch.setattr(cluster, "_import_ray", lambda: stand_in)
    return stand_in


def test_the_largest_begin_first_and_every_outcome_names_its_case(ray):
    begun: list[str] = []
    with RayWorkers("ray", lambda: Predictor(begun), size, number=1) as workers:
        done = dict(workers.outcomes(cases("a", "b", "c")))
    assert begun == ["c", "b", "a"]
    assert done == {0: {"case": "a"}, 1: {"case": "b"}, 2: {"case": "c"}}


def test_what_is_wrong_with_a_case_is_its_error(ray):
    with RayWorkers("ray", lambda: Predictor([]), size) as workers:
        done = dict(workers.outcomes(cases("empty", "b")))
    assert str(done[0]) == "EMPTY empty: 0 bytes"
    assert done[1] == {"case": "b"}


def test_a_case_whose_worker_died_is_tried_again_in_another(ray, caplog):
    begun: list[str] = []
    with RayWorkers("ray", lambda: Predictor(begun), size, number=1) as workers:
        done = dict(workers.outcomes(cases("a", "deadly once")))
    assert done == {0: {"case": "a"}, 1: {"case": "deadly once"}}
    assert begun == ["deadly once", "a", "deadly once"]
    assert len(ray.started) == 2
    assert caplog.messages == ["deadly once: its worker died; retrying"]


def test_a_case_that_kills_every_worker_fails_and_the_others_are_done(ray):
    begun: list[str] = []
    with RayWorkers("ray", lambda: Predictor(begun), size, number=1) as workers:
        done = dict(workers.outcomes(cases("deadly", "b")))
    assert begun.count("deadly") == 3
    assert str(done[0]).startswith(
        "WORKER_DIED deadly: 3 workers died while segmenting it: The reason: end of file. Hint: "
    )
    assert done[1] == {"case": "b"}


def test_all_workers_end_with_the_context(ray):
    with RayWorkers("ray", lambda: Predictor([]), size, number=3) as workers:
        workers.made_with()
    assert len(ray.killed) == 3


def test_what_keeps_a_worker_from_getting_ready_ends_the_run(ray):
    def build() -> Any:
        raise RuntimeError("instantiating") from UsageError("DEVICE", "--device cuda", "no GPU")

    with RayWorkers("ray", build, size) as workers, pytest.raises(UsageError, match="DEVICE --device cuda") as caught:
        workers.made_with()
    assert "RuntimeError: instantiating" in str(caught.value.__cause__)


def test_workers_that_die_before_they_begin_are_not_replaced_for_ever(ray):
    def build() -> Any:
        raise SystemExit

    ray.get = lambda call: (_ for _ in ()).throw(RayError("ModuleNotFoundError: no medseg3d"))
    with (
        RayWorkers("ray", build, size) as workers,
        pytest.raises(UserError, match="WORKER_DIED --cluster ray: 3 workers"),
    ):
        workers.made_with()
    assert len(ray.started) == 3


def test_workers_that_would_make_other_masks_are_refused(ray):
    precisions = iter(["float32", "bfloat16"])
    workers = RayWorkers("ray", lambda: Predictor([], next(precisions)), size, number=2)
    message = "CLUSTER --cluster ray: workers that would make other masks: inference precision float32 and bfloat16"
    with workers, pytest.raises(UsageError, match=message):
        list(workers.outcomes(cases("a", "b", "c")))


@pytest.mark.parametrize(
    ("nodes", "options", "share", "count"),
    [
        ([{"CPU": 16.0}], {}, {"num_cpus": 4}, 4),
        ([{"CPU": 2.0}], {}, {"num_cpus": 2}, 1),
        ([{"CPU": 2.0}], {"one_core": True}, {"num_cpus": 1}, 2),
        ([{"CPU": 8.0}], {"number": 2}, {"num_cpus": 4}, 2),
        ([{"CPU": 2.0}], {"number": 4}, {"num_cpus": 0.5}, 4),
        ([{"CPU": 8.0}, {"CPU": 2.0}, {"CPU": 0.0}], {}, {"num_cpus": 2}, 5),
        ([{"CPU": 16.0, "GPU": 4.0}], {}, {"num_gpus": 1.0, "num_cpus": 4}, 4),
        ([{"CPU": 16.0, "GPU": 4.0}], {"number": 8}, {"num_gpus": 0.5, "num_cpus": 2}, 8),
        ([{"CPU": 8.0}, {"CPU": 16.0, "GPU": 2.0}], {}, {"num_gpus": 1.0, "num_cpus": 8}, 2),
        ([{"CPU": 16.0, "GPU": 4.0}], {"gpus": False}, {"num_cpus": 4}, 4),
    ],
)
def test_a_worker_has_a_gpu_or_a_few_cores(ray, nodes, options, share, count):
    ray.resources = nodes
    with RayWorkers("ray", lambda: Predictor([]), size, **options):
        assert ray.started == [share] * count


def test_a_cluster_without_a_cpu_is_refused(ray):
    ray.resources = [{"CPU": 0.0}]
    with pytest.raises(UsageError, match="no CPU on any node"), RayWorkers("ray", Predictor, size):
        pass


@pytest.mark.parametrize("address", ["slurm", "ray://head:10001"])
def test_an_address_is_one(address):
    with pytest.raises(UsageError, match=f"BAD_VALUE --cluster: '{address}'"):
        RayWorkers(address, Predictor, size)


def test_without_ray_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'MISSING_PACKAGE --cluster: .* Hint: pip install "medseg3d\[ray\]"'):
        RayWorkers("ray", Predictor, size)


def test_a_refusal_is_read_in_a_process_that_lacks_what_was_raised():
    class OwnError(Exception):
        pass

    try:
        raise OwnError("of a package that is only there")
    except OwnError as error:
        refusal = Refusal.of(Failure({"image": "ct.nii.gz"}, error))
    user_error = pickle.loads(pickle.dumps(refusal)).error()
    assert (user_error.code, user_error.subject) == ("INTERNAL", "ct.nii.gz")
    assert "raise OwnError(" in str(user_error.__cause__)


def test_a_worker_without_the_folder_says_so(tmp_path):
    answer = Worker(lambda: None, 1, str(tmp_path / "mine"), {}).made_with()
    assert str(answer.reason).startswith(f"MISSING_FILE {tmp_path / 'mine'}: no such folder on ")


# importing it here would set it up
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


def results(folder: Path) -> dict[str, object]:
    """What is in each file, but for the times in a record."""
    return {
        path.relative_to(folder).as_posix(): {**json.loads(path.read_text()), "seconds": None}
        if path.suffix == ".json"
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> Path:
    """A folder of six images, one of them empty; the current directory is another one."""
    folder = polyp_folder(tmp_path / "polyps") / "images"
    (folder / "3.jpg").write_bytes(b"")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tiny_weights(Path("model.safetensors"), seed=0)
    return folder


@needs_ray
@pytest.mark.slow
def test_pictures_come_out_as_from_one_process_though_a_worker_is_killed(pictures, capfd, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=os.pathsep)  # where the workers find deadly.py
    marker = str(Path("killed").absolute())
    deadly = {"_target_": "deadly.DieOnce", "name": "2.jpg", "marker": marker}
    knobs = {
        "model_file": "model.safetensors",
        "features": FEATURES,
        "picture_size": [32, 32],
        "device": "cpu",
        "workers": 2,
        "preprocessing::transforms": ["@image_chain", "@normalisation", deadly],
    }
    call = ROOT / "bundles/polyp_resunetpp", pictures
    with own_process() as within:
        spread = within(predicted, *call, "spread", knobs, "ray")
        assert within(ray_processes) == []
    assert Path(marker).exists()
    assert spread.progress == [(done, 6) for done in range(1, 7)]
    assert "(raylet)" not in capfd.readouterr().out
    assert spread == predicted(*call, "alone", knobs, None)
    assert results(Path("spread")) == results(Path("alone"))


@needs_ray
@pytest.mark.slow
def test_volumes_come_out_as_from_one_process_and_stand_for_it(predict, capsys):
    Path("scans").mkdir()
    noise = np.random.default_rng(0)
    for number in range(3):
        values = noise.integers(-200, 300, (20 + number, 21, 12)).astype(np.int16)
        nib.save(nib.Nifti1Image(values, np.diag([1.5, 1.5, 2.5, 1])), f"scans/{number}.nii.gz")
    with own_process() as within:
        assert predict("scans", "-o", "spread", "--cluster", "ray", "--workers", "1", within=within) == 0
        assert within(ray_processes) == []
    assert predict("scans", "-o", "alone") == 0
    assert len(results(Path("alone"))) == 6
    assert results(Path("spread")) == results(Path("alone"))
    assert predict("scans", "-o", "spread") == 0
    assert "3 skipped: the mask exists: same image, weights and settings" in capsys.readouterr().out
