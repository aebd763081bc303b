"""How large an image may be. Every reader asks here before it decompresses or allocates anything.

A limit is the environment's, so that it holds in the threads and processes that read for a training too, whatever
starts them: `--max-voxels` and `--max-pixels` of the verbs set it for one call.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from medseg3d.errors import UsageError, UserError


class Limit(NamedTuple):
    """The most that an image may have of something.

    Attributes:
        unit: of what.
        option: of the verbs.
        variable: of the environment.
        default: where that is not set.
    """

    unit: str
    option: str
    variable: str
    default: int

    @property
    def most(self) -> int:
        """The limit that holds now.

        Raises:
            UserError: BAD_VALUE.
        """
        text = os.environ.get(self.variable) or str(self.default)
        if not text.isdecimal() or int(text) < 1:
            raise UsageError(
                "BAD_VALUE", self.variable, repr(text), f"a number of {self.unit}, 1 or more", "correct or unset it"
            )
        return int(text)

    @property
    def remedy(self) -> str:
        """What to do about an image that is larger."""
        return f"if the image is real, raise the limit: {self.option}, in a training {self.variable}"

    def check(self, path: str | Path, shape: Sequence[int], number: int | None = None) -> None:
        """Refuse an image that is too large by its header: by its sizes there, or by `number` where that is given.

        Raises:
            UserError: TOO_LARGE.

        Example:
            >>> with limits(max_pixels=5):
            ...     try:
            ...         PIXELS.check("polyp.png", (2, 3))
            ...     except UserError as error:
            ...         print(error.code, error.found, error.wanted, sep=", ")
            TOO_LARGE, 2 x 3 = 6 pixels by the header, at most 5
        """
        number = math.prod(shape) if number is None else number
        if number > self.most:
            found = f"{' x '.join(map(str, shape))} = {number} {self.unit} by the header"
            raise UserError("TOO_LARGE", path, found, f"at most {self.most}", self.remedy)


VOXELS = Limit("voxels", "--max-voxels", "MEDSEG3D_MAX_VOXELS", 2**30)
"""Of a volume: 1024 cubed, 4 GiB as float32."""

PIXELS = Limit("pixels", "--max-pixels", "MEDSEG3D_MAX_PIXELS", 50_000_000)
"""Of an image."""


@contextmanager
def limits(max_voxels: int | None = None, max_pixels: int | None = None) -> Iterator[None]:
    """Context with other limits, in this process and those it starts; None leaves one as it is.

    Raises:
        UserError: BAD_VALUE for a limit below 1.
    """
    wanted = {VOXELS: max_voxels, PIXELS: max_pixels}
    before = {limit.variable: os.environ.get(limit.variable) for limit in wanted}
    for limit, most in wanted.items():
        if most is not None and most < 1:
            raise UsageError(
                "BAD_VALUE",
                limit.option,
                str(most),
                f"a number of {limit.unit}, 1 or more",
                "correct it, or leave it out",
            )
    os.environ.update({limit.variable: str(most) for limit, most in wanted.items() if most is not None})
    try:
        yield
    finally:
        for variable, value in before.items():
            os.environ.pop(variable, None)
            if value is not None:
                os.environ[variable] = value
