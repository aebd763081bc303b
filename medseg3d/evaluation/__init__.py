"""Cases in, scores out: counts accumulated, aggregated to records, written; training, the verb and Python use this one.

Papers print one word, Dice, for numbers that are not the same: a mean over cases, a score of pooled voxels, a mean over
background and foreground (mmsegmentation), a mean over slices, a mean over 256 thresholds (PraNet). Here all of them
come from one pass over the cases, each a record that says what it is of and how it was taken.
"""

from medseg3d.evaluation.accumulate import Evaluation
from medseg3d.evaluation.records import FOREGROUND, Score, Summary

__all__ = ["FOREGROUND", "Evaluation", "Score", "Summary"]
