"""The process of one trial: MONAI's training command, which reports each validation score and asks whether to continue.

`python -m medseg3d.experiments.trial_process METRIC -m monai.bundle run training ...`. Each line on its standard output
is a message in JSON, `{"epoch": 1, "score": 0.5}` or at the end `{"error": [...]}`; each line on its standard input is
the answer to a score, `true` to continue. All else that it says goes to standard error. When the study is gone, it
ends.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import monai.bundle
from ignite.engine import Engine, Events
from monai.bundle import create_workflow

from medseg3d.bundle import monai_command_line
from medseg3d.child import end_with_parent
from medseg3d.errors import find_user_error

logger = logging.getLogger("medseg3d")


def report_scores(evaluator: Engine, trainer: Engine, metric: str, ask: Callable[[dict[str, Any]], bool]) -> None:
    """Report each score, by its name in `evaluator.state.metrics`, and end the training if `ask` says so."""

    @evaluator.on(Events.COMPLETED)
    def tell(engine: Engine) -> None:
        if not ask({"epoch": engine.state.epoch, "score": float(engine.state.metrics[metric])}):
            logger.info("pruned after epoch %d", engine.state.epoch)
            trainer.terminate()


class _Study:
    """The other end of standard input and output."""

    def __init__(self) -> None:
        self.messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what the training prints is not a message
        self.answers: SimpleQueue[bool] = SimpleQueue()
        end_with_parent(lambda line: self.answers.put(json.loads(line)))

    def tell(self, message: dict[str, Any]) -> None:
        self.messages.write(json.dumps(message) + "\n")
        self.messages.flush()

    def ask(self, message: dict[str, Any]) -> bool:
        self.tell(message)
        return self.answers.get()


def main(metric: str, words: list[str]) -> int:
    """Train as `python` with these words would, and talk about it."""
    study = _Study()
    # the configs record the command that is run, and it is this one
    sys.argv = [str(Path(monai.bundle.__file__).with_name("__main__.py")), *words[2:]]
    try:
        command = monai_command_line(sys.argv)
        if command is None:
            raise ValueError(f"no MONAI command: {words}")
        config_files, overrides = command
        workflow = create_workflow(config_file=config_files, run_id="training", **overrides)
        evaluator, trainer = map(workflow.parser.get_parsed_content, ("validate#evaluator", "train#trainer"))
        report_scores(evaluator, trainer, metric, study.ask)
        workflow.run()
        workflow.finalize()
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is None:
            raise
        print(f"error: {user_error}", file=sys.stderr)
        study.tell({"error": list(user_error.args)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
