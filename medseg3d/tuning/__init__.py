"""Knobs chosen by training with many of them: `bundles.tune` for a bundle, `study.run_study` for any training."""

from importlib.util import find_spec

from medseg3d.faults import Fault

if find_spec("optuna") is None:
    raise Fault("MISSING_PACKAGE", "tuning", "no package optuna", "Optuna", "pip install 'medseg3d[tune]'")
