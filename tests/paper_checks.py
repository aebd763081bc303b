"""What printed scores imply of each other: which pairs cannot be, and what a mean over two classes hides."""

from __future__ import annotations

import math
from typing import NamedTuple


def dice_of_iou(iou: float) -> float:
    """The Dice of one count that has this IoU, 2 J / (1 + J); both 0 to 1.

    Example:
        >>> dice_of_iou(0.5) == 2 / 3
        True
    """
    return 2 * iou / (1 + iou)


def iou_of_dice(dice: float) -> float:
    """The IoU of one count that has this Dice, D / (2 - D); both 0 to 1.

    Example:
        >>> iou_of_dice(0.8)
        0.6666666666666667
    """
    return dice / (2 - dice)


def impossible(dice: float, iou: float, rounding: float = 5e-4) -> str:
    """Why no predictions have this Dice and this IoU together; empty where some have.

    It holds for one count, where IoU is D / (2 - D), and for means of both over the same cases or classes: IoU is
    nowhere above Dice, and D / (2 - D) is convex, so that a mean IoU is at least that of the mean Dice (Jensen).

    Args:
        dice: 0 to 1.
        iou: 0 to 1.
        rounding: what either number may be off by, half of its last digit.

    Example:
        >>> impossible(dice=0.8, iou=0.7)
        ''
        >>> impossible(dice=0.45244, iou=0.8039)
        'IoU 0.8039 is above Dice 0.4524, which it never is for the same masks'
        >>> impossible(dice=0.5913, iou=0.2282)
        'IoU 0.2282 is below 0.4197, the least that Dice 0.5913 allows'
    """
    if iou - rounding > dice + rounding:
        return f"IoU {iou:.4f} is above Dice {dice:.4f}, which it never is for the same masks"
    least = iou_of_dice(dice - rounding)
    if iou + rounding < least:
        return f"IoU {iou:.4f} is below {iou_of_dice(dice):.4f}, the least that Dice {dice:.4f} allows"
    return ""


def below_blank(accuracy: float, foreground: float) -> str:
    """Why this pixel accuracy is worth less than none: blank masks score more; empty where they do not.

    Args:
        accuracy: part of the pixels that is right, 0 to 1.
        foreground: part of the pixels that is foreground, 0 to 1.

    Example:
        >>> below_blank(0.7215, foreground=0.156)
        'pixel accuracy 0.7215 is below 0.844, which blank masks have'
        >>> below_blank(0.97, foreground=0.156)
        ''
    """
    if accuracy < 1 - foreground:
        return f"pixel accuracy {accuracy:.4f} is below {1 - foreground:.3f}, which blank masks have"
    return ""


def least_accuracy(dice: float, foreground: float) -> float:
    """The least pixel accuracy of a pooled Dice: wrong pixels are 2 TP (1 / D - 1), and TP at most all foreground.

    Args:
        dice: of one count, above 0 to 1.
        foreground: part of the pixels that is foreground, 0 to 1.

    Example:
        >>> round(least_accuracy(0.8, foreground=0.1), 3)
        0.95
    """
    return max(0.0, 1 - 2 * foreground * (1 / dice - 1))


class TwoClasses(NamedTuple):
    """Dice and IoU of both classes behind a mean over the two, 0 to 1, each of the counts of the whole data set."""

    iou_foreground: float
    iou_background: float

    @property
    def dice_foreground(self) -> float:
        """Dice of the foreground alone."""
        return dice_of_iou(self.iou_foreground)

    @property
    def dice_background(self) -> float:
        """Dice of the background alone."""
        return dice_of_iou(self.iou_background)

    @property
    def mdice(self) -> float:
        """Mean Dice of the two: equal to the printed one if the printed ones are of pooled counts."""
        return (self.dice_foreground + self.dice_background) / 2


def with_foreground(iou_foreground: float, miou: float) -> TwoClasses:
    """The two classes of which one IoU and the mean IoU are printed.

    Example:
        >>> classes = with_foreground(iou_foreground=0.8369, miou=0.9012)
        >>> round(classes.iou_background, 4), round(classes.dice_foreground, 4), round(classes.mdice, 4)
        (0.9655, 0.9112, 0.9468)
    """
    return TwoClasses(iou_foreground, 2 * miou - iou_foreground)


def split_two_classes(mdice: float, miou: float) -> TwoClasses:
    """The two classes whose mean Dice and mean IoU are printed; the better one is taken for the background.

    With Dice 2 - 2 / (1 + J) the sum and the product of both 1 + J are known, so they are the roots of a quadratic.

    Raises:
        ValueError: no two classes of pooled counts have these means.

    Example:
        >>> classes = split_two_classes(mdice=(0.8 + 0.5) / 2, miou=(2 / 3 + 1 / 3) / 2)
        >>> round(classes.iou_foreground, 6), round(classes.iou_background, 6)
        (0.333333, 0.666667)
    """
    half = 1 + miou
    discriminant = half**2 - 2 * half / (2 - mdice)
    if discriminant < 0:
        raise ValueError(f"no two classes have mean Dice {mdice} and mean IoU {miou} of pooled counts")
    root = math.sqrt(discriminant)
    return TwoClasses(half - root - 1, half + root - 1)
