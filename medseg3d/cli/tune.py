"""`medseg3d tune`: search for the best values of a bundle's options, with Optuna."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from medseg3d.data.splits import SET_NAMES
from medseg3d.errors import UsageError
from medseg3d.experiments.trials import trials_markdown
from medseg3d.experiments.tune import tune
from medseg3d.reports.wording import command_line


def run(args: argparse.Namespace) -> int:
    """Work on the study until it is complete, then print its trials and the command that trains with the best."""
    search: dict[str, str] = {}
    for text in args.search:
        knob, _, values = text.partition("=")
        if knob in search:
            found, wanted = f"a second range of {knob}", "one range per option"
            raise UsageError("BAD_VALUE", f"--search {text}", found, wanted, "leave one out")
        search[knob] = values

    bar = tqdm(total=args.trials, desc="trials", unit="trial", dynamic_ncols=True, disable=None)
    ended_before: int | None = None
    with bar, _stopped_as_by_ctrl_c():

        def say(text: str) -> None:
            with bar.external_write_mode():
                print(text, flush=True)

        def progress(ended: int, running: str) -> None:
            nonlocal ended_before
            if ended_before is None:
                bar.initial = ended_before = ended  # what was done before says nothing of the time that a trial takes
            bar.n = ended
            bar.set_postfix_str(running)

        tuned = tune(
            args.bundle,
            args.output,
            search,
            n_trials=args.trials,
            overlays=args.config_overlay,
            knobs=args.knobs,
            storage=args.storage,
            study=args.study,
            seed=args.seed,
            pruner=args.pruner,
            startup_trials=args.startup_trials,
            say=say,
            progress=progress,
        )
    values = ", ".join(f"{knob} {value}" for knob, value in tuned.values.items())
    print(f"\n{trials_markdown(tuned.records, tuned.metric, list(tuned.values))}\n")
    print(f"best: {values}, with {tuned.metric} {tuned.score:.4f} in trial {tuned.best.number} ({tuned.best.folder})")
    print(f"chosen on the {SET_NAMES[tuned.part]}; the test set was not used")
    print(f"trials.csv and best.json are in {args.output}. To train with the best values, run this in {tuned.root}")
    print("(leave out options that only kept the trials short, such as --epochs):")
    print(command_line(tuned.train_command))
    return 0


@contextmanager
def _stopped_as_by_ctrl_c() -> Iterator[None]:
    """Context in which a batch system's TERM and a lost terminal's HUP stop as Ctrl-C does, so nothing stays running.

    What is ignored (`nohup`) stays ignored.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
