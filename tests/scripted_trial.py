"""Stands in for the process of a trial: METRIC -m monai.bundle run training ... --script SCRIPT.

A script is steps with commas between: a number is a score that is told, `error` an error, `die` a sudden end.
"""

from __future__ import annotations

import json
import os
import sys


def main(script: str) -> None:
    for epoch, step in enumerate(script.split(","), start=1):
        if step == "die":
            os._exit(3)
        if step == "error":
            print(json.dumps({"error": ["LOSS_NOT_FINITE", "iteration 7", "a loss of nan", "", ""]}), flush=True)
            sys.exit(1)
        print(json.dumps({"epoch": epoch, "score": float(step)}), flush=True)
        print("epoch", epoch, "answer", answer := sys.stdin.readline().strip(), file=sys.stderr)
        if answer != "true":
            return


if __name__ == "__main__":
    main(sys.argv[sys.argv.index("--script") + 1])
