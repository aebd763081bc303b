"""Under which conditions a study of the CRIS grid was done, and how they differ from the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg3d.data.splits import read_split
from medseg3d.reports.cris_study_results import Study
from medseg3d.reports.papers import cris_table
from medseg3d.reports.wording import command_line, duration, plain_text

_PAPER_CASES = {"Table 1": 1000, "Table 2": 612}
"""Pictures of the data sets of the paper's tables."""

_PAPER_SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}
_PAPER_TRIALS = 20
_PAPER_BATCH = 4

_STRATEGIES = {
    "backbone": "nothing behind the backbone",
    "fcn": "the refinement behind it, both trained end to end by the final map alone",
    "crf": "a conditional random field behind it",
    "cris": "the same refinement as fcn, backbone and refinement trained in turns",
}


def conditions(study: Study) -> str:
    """What was the same for all runs, what was chosen where, on which pictures, by what, in which time."""
    settings = study.settings
    values = {key: value for key, value in {**study.conditions, **settings["knobs"]}.items() if value != ""}
    values.pop("split_seed", None)  # that of the manifest counts
    tuned = "One learning rate for all, not tuned."
    if settings["trials"]:
        values.pop("learning_rate", None)
        length = f" of {settings['tune_epochs']} epochs" if settings["tune_epochs"] else ""
        tuned = f"Learning rate of each tuned from 1e-6 to 1e-2 in {settings['trials']} trials{length}."
    strategies = [each for each in _STRATEGIES if each in {combination["strategy"] for combination in study.asked}]
    varied = "data, backbone, strategy" + (", seed and learning rate" if settings["trials"] else " and seed")
    lines = [
        f"Nothing but {varied} differs between the runs.",
        f"Strategies: {'; '.join(f'{each}: {_STRATEGIES[each]}' for each in strategies)}.",
        *_turns(study, values),
        f"Equal for all: {', '.join(f'{key} {value}' for key, value in values.items())}; all else as the bundle "
        f"{settings['bundle']} has it, see its docs/README.md.",
        tuned,
        *_selection(study, values),
        "Threshold: of 0.01 to 0.99 the one with the best mean Dice per picture on the part "
        f"{settings['threshold_part']}; scored is the part {settings['part']}, at that threshold.",
        f"Seeds of the trainings: {', '.join(map(str, study.seeds))}"
        + ("; mean ± standard deviation over them." if len(study.seeds) > 1 else ". One run each, without a spread."),
        *(_pictures(name, data) for name, data in study.data.items()),
        *_time(study),
    ]
    versions = dict.fromkeys(plain_text(row["versions"]) for row in study.rows if row["versions"])
    lines += [f"Versions: {'; or '.join(versions)}."] * bool(versions)
    bullets = "\n".join(f"- {line}" for line in lines)
    command = study.record.get("command")
    if not command:
        return bullets
    called = command_line([Path(command[0]).name, *command[1:]])
    return f"{bullets}\n\nLast called as\n\n```\n{called}\n```"


def differences(study: Study) -> list[str]:
    """Sentences on where the conditions are not those that the paper states, and what it does not state."""
    differ = []
    for name, data in study.data.items():
        table = cris_table(name)
        if data["phantom"]:
            differ.append(f"{name} is generated")
            continue
        n = sum(data["cases"].values())
        shares = {part: data["cases"][part] / n for part in _PAPER_SHARES}
        if table is not None and n != _PAPER_CASES[table.name]:
            differ.append(f"{n} pictures of {name}, not {_PAPER_CASES[table.name]}")
        if any(abs(shares[part] - share) > 0.01 for part, share in _PAPER_SHARES.items()):
            said = "/".join(f"{100 * share:.0f}" for share in shares.values())
            differ.append(f"{name} split {said}, not 70/15/15")
    settings = study.settings
    if settings["trials"] != _PAPER_TRIALS:
        differ.append(f"{settings['trials'] or 'no'} trials of the learning rate, not {_PAPER_TRIALS}")
    if settings["tune_epochs"]:
        differ.append(f"trials of {settings['tune_epochs']} epochs, trainings of {study.conditions.get('epochs')}")
    if settings["threshold_part"] != "train":
        differ.append(f"the threshold chosen on the part {settings['threshold_part']}, not train")
    if settings["part"] != "test":
        differ.append(f"scored on the part {settings['part']}, not test")
    batch = study.conditions.get("batch_size")
    if batch != _PAPER_BATCH:
        differ.append(f"batches of {batch}, not {_PAPER_BATCH}")
    unstated = "The paper does not state size, length, augmentation, selection, how means are taken, and how many runs."
    if not differ:
        return [f"Where the paper states a condition, ours is the same. {unstated}"]
    return [f"**Not the paper's conditions:** {'; '.join(differ)}. {unstated}"]


def unfinished(study: Study) -> str:
    """What has failed, and why; what is not there yet; nothing where all is finished."""
    lines = [f"- {name} failed: {reason}" for name, reason in study.failures.items()]
    for name in study.data:
        missing = [each["run_dir"].removeprefix(f"{name}_") for each in study.missing if each["data"] == name]
        lines += [f"- {name}, {len(missing)} not finished: {', '.join(missing)}"] * bool(missing)
    return "\n".join(["## Not in the tables", "", *lines]) if lines else ""


def _turns(study: Study, values: Mapping[str, Any]) -> list[str]:
    if all(each["strategy"] != "cris" for each in study.asked):
        return []
    turn = values.get("interleave", "epoch")
    return [
        f"CRIS: every other {turn} trains the backbone by its own map alone, as the paper's equation 3 has it, so that "
        f"the final map is trained in half of the {turn}s that it has elsewhere."
    ]


def _selection(study: Study, values: Mapping[str, Any]) -> list[str]:
    rule = values.get("selection")
    if rule is None:
        return []
    words = "the last validation" if rule == "last" else "the best validation: mean Dice per picture, at 0.5"
    kept = [(study.kept[row["run_dir"]][0], row["epochs"]) for row in study.rows if row["run_dir"] in study.kept]
    last = sum(epoch == epochs for epoch, epochs in kept)
    lines = [f"Kept are the weights of {words}, of the final map, on the resized pictures of the part val."]
    if rule != "last" and last:
        lines.append(
            f"**{last} of {len(kept)} trainings were best in their last epoch**: longer ones may go on rising, and "
            "change the order."
        )
    return lines


def _pictures(name: str, data: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{n} {part}" for part, n in data["cases"].items())
    file = Path(data["split_file"])
    seed = f" (seed {read_split(file).seed})" if file.is_file() else ""
    return f"{name}: {parts}; split {data['split_hash'][:16]}{seed}, {file.name}, the same lists for all runs."


def _time(study: Study) -> list[str]:
    if not study.rows:
        return []
    training = sum(row["seconds"]["training"] for row in study.rows)
    spent = {
        "training": training,
        "evaluating": sum(sum(row["seconds"].values()) for row in study.rows) - training,
        "tuning": sum((row["tuning"] or {}).get("seconds", 0.0) for row in study.rows),
    }
    said = ", ".join(f"{name} {duration(seconds)}" for name, seconds in spent.items() if seconds)
    where = f"; {study.record['jobs']} at a time, on {study.record['machine']}" if "machine" in study.record else ""
    resumed = sum(bool(row["resumed"]) for row in study.rows)
    rest = f"; of {resumed} that were resumed, the last part alone" if resumed else ""
    return [f"Time by the clock, summed over {len(study.rows)} runs: {said}{rest}{where}."]
