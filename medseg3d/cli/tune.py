"""`medseg3d tune`: knobs chosen by training with many of them."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager

HELP = "choose knobs of a bundle (the learning rate, ...) by their validation scores over many trainings, with Optuna"
TAKES_KNOBS = True
RENAMED = {"--overlay": "--config-overlay"}
EPILOG = """\
  medseg3d tune bundles/polyp_resunetpp -o runs/tune --search learning_rate=log:1e-6:1e-2 --epochs 10
Further --key value pairs are knobs of the bundle, the same for all trials.
The same command in another terminal, or on another machine with the same --storage, shares the trials. Interrupted?
Rerun the same command to resume. Only the validation set of the split is ever looked at.
Each trial tells of its training in OUTPUT/trial_NNNN/run.log.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A bundle, what is searched, how long, with whom."""
    parser.add_argument("bundle", help="folder or name of the bundle, for instance polyp_resunetpp")
    parser.add_argument("-o", "--output", required=True, help="folder for the trials, trials.csv and best.json")
    parser.add_argument(
        "--search",
        action="append",
        required=True,
        metavar="KNOB=RANGE",
        help="log:LOW:HIGH, uniform:LOW:HIGH, int:LOW:HIGH or choice:A,B,C; may be given several times",
    )
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="of all workers (default: %(default)s)")
    parser.add_argument(
        "--config-overlay", nargs="+", default=[], metavar="NAME", help="overlays of the bundle, for example phantom"
    )
    parser.add_argument(
        "--storage", metavar="URL", help="database, as postgresql+psycopg://USER@HOST/DB (default: study.db in OUTPUT)"
    )
    parser.add_argument("--study", metavar="NAME", help="name of the study in it (default: the name of OUTPUT)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws and of every training (default: %(default)s)")
    parser.add_argument(
        "--pruner",
        default="median",
        choices=("median", "none"),
        help="stop trials whose best score is below the median at that epoch (default: %(default)s)",
    )
    parser.add_argument(
        "--startup-trials",
        type=int,
        default=5,
        metavar="N",
        help="complete trials before the first is pruned (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Work on the study until it is complete, then print its trials and the command that trains with the best."""
    from tqdm import tqdm

    from medseg3d.errors import UsageError
    from medseg3d.experiments.trials import trials_markdown
    from medseg3d.experiments.tune import tune
    from medseg3d.reports.wording import command_line

    search: dict[str, str] = {}
    for text in args.search:
        knob, _, values = text.partition("=")
        if knob in search:
            raise UsageError("BAD_VALUE", f"--search {text}", "a second range", "one for each knob", "leave one out")
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
    print(f"chosen on the part {tuned.part} of the split alone; the test set was not looked at")
    print(f"trials.csv and best.json in {args.output}. To train as this trial did, from {tuned.root}")
    print("(leave out what only kept the trials short, --epochs for instance):")
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
