"""Trainings that belong together: a grid of runs from a definition, and knobs chosen over many trainings."""
