"""A worker of a study whose trainings cost nothing, as a program: URL FOLDER TRIALS EPOCH_SECONDS.

The score of a trial is highest at a learning rate of 1e-3. Every epoch that is trained is a line in trained.txt.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

from medseg3d.experiments.search import parse_search
from medseg3d.experiments.study import run_study

EPOCHS = 3
SEARCH = parse_search({"learning_rate": "log:1e-6:1e-2"})


def score(learning_rate: float, epoch: int) -> float:
    return (epoch / EPOCHS) / (1 + abs(math.log10(learning_rate) + 3))


def main(url: str, folder: Path, n_trials: int, epoch_s: float) -> None:
    def train(values, trial, report):
        trial.mkdir(exist_ok=True)
        for epoch in range(1, EPOCHS + 1):
            with open(folder / "trained.txt", "a") as file:
                file.write(f"{trial.name} {epoch} {os.getpid()}\n")
            time.sleep(epoch_s)
            if not report(epoch, score(values["learning_rate"], epoch)):
                return

    run_study(train, SEARCH, folder, n_trials=n_trials, storage=url, heartbeat_s=1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
