"""Pillow's own bound on images, which is not ours, and which warns before it refuses."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

_LOCK = threading.Lock()  # the bound, and Python's filters of warnings, are those of all threads


@contextmanager
def pillow_unbounded() -> Iterator[None]:
    """Context for one thread at a time, in which `medseg3d.limits.PIXELS` alone says how large an image may be."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = bound
