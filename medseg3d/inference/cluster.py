"""Cases spread over worker processes of Ray: on this machine, or on a cluster whose nodes see the same files."""

from __future__ import annotations

import logging
import math
import os
import platform
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from medseg3d.errors import UsageError, UserError
from medseg3d.inference.predictor import CasePredictor, Failure, Outcome, clear_leftovers
from medseg3d.inference.records import case_name
from medseg3d.limits import PIXELS, VOXELS

logger = logging.getLogger("medseg3d")

_HERE = "ray"
_TRIES = 3
_CORES = 4  # of a worker without a GPU where one case keeps several busy
_SILENCE_S = 60.0
_OBJECT_STORE = 100 << 20  # nothing but items and records goes through it


class Refusal(NamedTuple):
    """What was wrong in a worker, in values that say it in any process."""

    reason: UserError
    trace: str

    @classmethod
    def of(cls, failure: Failure) -> Refusal:
        """The error of a failure, and its traceback as text."""
        return cls(failure.error, "".join(traceback.format_exception(failure.cause)))

    def error(self) -> UserError:
        """The error, with its traceback in the worker as the cause."""
        self.reason.__cause__ = RuntimeError(f"in a worker on another process:\n{self.trace}")
        return self.reason


class Worker:
    """What a worker process holds: a `CasePredictor` of its own, which `build` makes.

    It works in the current directory of who started it, where relative paths start, with further variables of the
    environment, and as many threads of torch as it has cores.
    """

    def __init__(
        self, build: Callable[[], CasePredictor], cores: int, directory: str, environment: Mapping[str, str]
    ) -> None:
        self.build = build
        self.cores = cores
        self.directory = directory
        self.environment = environment

    def made_with(self) -> dict[str, Any] | Refusal:
        """Get ready, and say what the masks are made with: see `CasePredictor.made_with`."""
        try:
            if not Path(self.directory).is_dir():
                found = f"no such folder on {platform.node()}"
                remedy = "run it in a folder on a file system that all nodes share"
                raise UsageError("MISSING_FILE", self.directory, found, "the same files on every node", remedy)
            os.chdir(self.directory)
            os.environ.update(self.environment)
            torch.set_num_threads(self.cores)
            self.predictor = self.build()
            return self.predictor.made_with()
        except Exception as error:
            return Refusal.of(Failure({"case": f"a worker on {platform.node()}"}, error))

    def attempt(self, item: Mapping[str, Any]) -> dict[str, Any] | Refusal:
        """Segment one case: see `CasePredictor.attempt`."""
        outcome = self.predictor.attempt(item)
        return Refusal.of(outcome) if isinstance(outcome, Failure) else outcome


class RayWorkers:
    """Segments the cases of a `CasePredictor` in worker processes: one for each GPU, else one for a few cores each.

    The largest cases begin first, so that no worker is left alone with one at the end. A worker that dies, for want of
    memory or with its node, is replaced and its case tried again; the third death is the failure of the case.

    A context. With it end the workers, whatever they are at, and Ray where it was started for it. Ray does not phone
    home, opens no dashboard here, and says nothing on the terminal.

    Args:
        address: `ray` for this machine (or for the cluster that RAY_ADDRESS names, as `ray job submit` sets it), else
            a running cluster: `head:6379`, or `auto` for one on this machine. Ray's client (`ray://`) is not for this.
        build: makes the predictor of a worker; it is pickled.
        size: how large a case is.
        number: of workers; None for as many as the cluster has GPUs or cores for. More than GPUs share them.
        one_core: whether a worker without a GPU gets one core and not a few, where `number` does not say it.
        gpus: whether the workers take GPUs where there are any.

    Raises:
        UserError: MISSING_PACKAGE (Ray), BAD_VALUE (`address`), CLUSTER (nothing answers there).
    """

    def __init__(
        self,
        address: str,
        build: Callable[[], CasePredictor],
        size: Callable[[Mapping[str, Any]], int],
        number: int | None = None,
        one_core: bool = False,
        gpus: bool = True,
    ) -> None:
        if (address not in (_HERE, "auto") and ":" not in address) or "://" in address:
            raise UsageError(
                "BAD_VALUE", "--cluster", repr(address), "ray, auto or HOST:6379", "--cluster ray for this machine"
            )
        self.address = address
        self.build = build
        self.size = size
        self.number = number
        self.one_core = one_core
        self.gpus = gpus
        self._ray = _import_ray()
        self._is_ours = False
        self._idle: list[Any] = []
        self._under_way: dict[Any, tuple[Any, int | None]] = {}  # call -> worker, and position of its case
        self._made_with: dict[str, Any] | None = None
        self._stillborn = 0

    def __enter__(self) -> RayWorkers:
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            self._connect()
        try:
            self._options, count = self._shares()
            for _ in range(count):
                self._call_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self._idle, *(worker for worker, _ in self._under_way.values())]:
            self._ray.kill(worker)
        if self._is_ours:
            self._ray.shutdown()

    def made_with(self) -> dict[str, Any]:
        """What the workers make masks with, which may be otherwise than this machine would.

        Raises:
            UserError: of the first worker that cannot get ready; WORKER_DIED where they die of it.
        """
        while self._made_with is None:
            worker, _, answer = self._wait()
            self._welcome(worker, answer)
        return self._made_with

    def outcomes(self, items: Sequence[Mapping[str, Any]]) -> Generator[tuple[int, Outcome], None, None]:
        """Position and outcome of every item, as they are done.

        Raises:
            UserError: as `made_with`, of a worker that comes later or replaces another.
        """
        queue = deque(sorted(range(len(items)), key=lambda position: -self.size(items[position])))
        deaths: Counter[int] = Counter()
        left = len(items)
        while left:
            while queue and self._idle:
                worker, begun = self._idle.pop(), queue.popleft()
                self._under_way[worker.attempt.remote(dict(items[begun]))] = worker, begun
            worker, position, answer = self._wait()
            if position is None:
                self._welcome(worker, answer)
                continue
            item = items[position]
            if isinstance(answer, Exception):
                self._call_up()
                clear_leftovers([item])
                deaths[position] += 1
                if deaths[position] < _TRIES:
                    logger.warning("%s: its worker died; retrying", case_name(item))
                    queue.append(position)  # at the end, when there may be more memory
                    continue
                outcome: Outcome = Failure(item, _deadly(item, answer))
            else:
                self._idle.append(worker)
                outcome = Failure(item, answer.error()) if isinstance(answer, Refusal) else answer
            left -= 1
            yield position, outcome

    def _connect(self) -> None:
        address = self.address if self.address != _HERE else os.environ.get("RAY_ADDRESS", "local")
        own = {}
        if address == "local":
            threads = torch.get_num_threads()
            own = {"num_cpus": threads, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        try:
            self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, ImportError, RuntimeError, ValueError) as error:
            found = " ".join(str(error).split())[:300]
            wanted = f"a running cluster of Ray {self._ray.__version__}"
            remedy = "start it (ray start --head); set RAY_AUTH_MODE=token if it needs one; --cluster ray needs neither"
            raise UsageError("CLUSTER", f"--cluster {address}", found, wanted, remedy) from error

    def _shares(self) -> tuple[dict[str, float], int]:
        """What each worker asks of its node, and how many workers there are."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
        gpus = [(int(node["GPU"]), int(node.get("CPU", 0))) for node in nodes if node.get("GPU", 0) >= 1]
        share: float
        if self.gpus and gpus:
            total = sum(count for count, _ in gpus)
            sharing = math.ceil((self.number or total) / total)
            share = max(1, min(cpu // (count * sharing) for count, cpu in gpus))
            return {"num_gpus": 1 / sharing, "num_cpus": share}, self.number or total
        if not cpus:
            remedy = "start nodes that have some (ray start --address HOST:6379)"
            raise UsageError("CLUSTER", f"--cluster {self.address}", "no CPU on any node", "at least one", remedy)
        share = 1 if self.one_core else _CORES
        if self.number is not None:
            share = sum(cpus) // self.number or sum(cpus) / self.number
        share = min(share, *cpus)
        return {"num_cpus": share}, self.number or sum(int(cpu // share) for cpu in cpus)

    def _call_up(self) -> None:
        limits = (VOXELS.variable, PIXELS.variable)
        environment = {name: os.environ[name] for name in limits if name in os.environ}
        remote = self._ray.remote(**self._options)(Worker)
        worker = remote.remote(self.build, max(1, int(self._options["num_cpus"])), os.getcwd(), environment)
        self._under_way[worker.made_with.remote()] = worker, None

    def _wait(self) -> tuple[Any, int | None, Any]:
        """A worker that has answered, the position of its case if it had one, and the answer: an error if it died."""
        while True:
            calls = list(self._under_way)
            ready, _ = self._ray.wait(calls, timeout=_SILENCE_S if self._made_with is None else None)
            if ready:
                break
            logger.warning(
                "no worker yet: the cluster has no free resources, or is slow (a worker needs %s)", self._options
            )
        worker, position = self._under_way.pop(ready[0])
        try:
            return worker, position, self._ray.get(ready[0])
        except self._ray.exceptions.RayError as error:
            self._ray.kill(worker)  # where only the way to it is broken, it must not run alongside another
            return worker, position, error

    def _welcome(self, worker: Any, answer: Any) -> None:
        """Take in a worker that is ready."""
        if isinstance(answer, Exception):
            self._stillborn += 1
            if self._stillborn == _TRIES:
                found = f"{_TRIES} workers in a row, before their first case: {_last_line(answer)}"
                wanted = "workers that start"
                remedy = "check that every node has this version of medseg3d and enough memory for the network"
                raise UserError("WORKER_DIED", f"--cluster {self.address}", found, wanted, remedy) from answer
            self._call_up()
            return
        if isinstance(answer, Refusal):
            raise answer.error()
        if self._made_with not in (None, answer):
            found = f"workers that would make other masks: {_differences(self._made_with, answer)}"
            remedy = "set the option that differs, for instance --precision float32, or use identical nodes"
            raise UsageError(
                "CLUSTER", f"--cluster {self.address}", found, "identical results from all workers", remedy
            )
        self._stillborn = 0
        self._made_with = answer
        self._idle.append(worker)


def _import_ray() -> ModuleType:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # what Ray would say of the workers
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 otherwise: a worker would wait for everything else
    try:
        import ray
    except ImportError as error:
        remedy = 'pip install "medseg3d[ray]"'
        raise UserError("MISSING_PACKAGE", "--cluster", "Ray is not installed", "ray", remedy) from error
    return ray


def _deadly(item: Mapping[str, Any], error: Exception) -> UserError:
    found = f"{_TRIES} workers died while segmenting it: {_last_line(error)}"
    remedy = "it may need more memory than is available: use --workers 1, or segment it separately"
    user_error = UserError("WORKER_DIED", item["image"], found, "", remedy)
    user_error.__cause__ = error
    return user_error


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1][:300]


def _differences(one: Any, other: Any) -> str:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return ", ".join(
            f"{key} {_differences(one.get(key), other[key])}" for key in other if one.get(key) != other[key]
        )
    return f"{one} and {other}"
