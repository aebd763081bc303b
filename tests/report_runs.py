"""Small runs to report on, and a parser of the page that comes out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from medseg3d.evaluation import Evaluation
from medseg3d.pictures.writing import write_picture_mask

SHAPE = (16, 14, 8)
AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


@contextmanager
def undrawn_figures() -> Iterator[None]:
    """Context in which figures are built, and a pixel is written instead of each."""
    pixel = io.BytesIO()
    Image.new("L", (1, 1)).save(pixel, "png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, file, **_: Path(file).write_bytes(pixel.getvalue()))
        yield


class Page(HTMLParser):
    """Tables as lists of rows of cells, section by section; images; every address; all words."""

    def __init__(self, html):
        super().__init__()
        self.html = html
        self.tables, self.images, self.addresses, self.tags, self.ids = {}, [], [], [], []
        self.words, self._section, self._cell = [], "opening", None
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.addresses += [attrs[key] for key in ("src", "href", "srcset", "action", "data") if key in attrs]
        if tag == "section":
            self._section = attrs["id"]
        elif tag == "table":
            self.tables.setdefault(self._section, []).append([])
        elif tag == "tr":
            self.tables[self._section][-1].append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif tag == "img":
            self.images.append(attrs)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            words = (word.strip() for word in self._cell)
            self.tables[self._section][-1][-1].append(" ".join(word for word in words if word))
            self._cell = None

    def handle_data(self, data):
        self.words.append(data)
        if self._cell is not None:
            self._cell.append(data)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


def make_run(folder, shifts, class_names=("pancreas",), with_curves=True, with_files=True):
    """An evaluation of boxes of 4x6x4 voxels whose prediction is shifted: Dice 1 - shift / 4.

    A second class is another such box that is always predicted right; a third one is nowhere. The probability is as
    the prediction; without curves there are masks alone, and no training.
    """
    evaluation, files = Evaluation(class_names, grid="original grid"), {}
    for case, shift in shifts.items():
        truth = np.zeros(SHAPE, np.uint8)
        truth[4:8, 4:10, 2:6] = 1
        pred = np.roll(truth, shift, axis=0)
        if len(class_names) > 1:
            truth[12:16, 4:10, 2:6] = pred[12:16, 4:10, 2:6] = 2
        stem = f"case_{len(files)}"
        files[case] = {
            "image": save(folder / "images" / f"{stem}.nii.gz", np.zeros(SHAPE, np.int16)),
            "truth": save(folder / "labels" / f"{stem}.nii.gz", truth),
            "pred": save(folder / "masks" / f"{stem}_seg.nii.gz", pred),
        }
        prob = np.where(pred, 0.875, 0.125) if with_curves else None
        own = files[case] if with_files else {}
        evaluation.add(case, pred, truth, prob=prob, affine=AFFINE, files=own)
    command = ["python", "-m", "monai.bundle", "run", "evaluating", "--output_dir", "a b"]
    stated = {"seed": 17, "split_hash": "abc123", "command": command, "versions": {"torch": "2.13.0"}}
    evaluation.write(folder, stated)
    if with_curves:
        with SummaryWriter(str(folder)) as writer:
            writer.add_scalar("train_loss", 1.5, 1)
            writer.add_scalar("val_dice_mean", 0.625, 1)
    return files


def make_pictures(folder, shifts, side=40, **context):
    """An evaluation of polyps in images, squares of 8, 9, 10, ... pixels whose prediction is shifted to the right."""
    evaluation = Evaluation(["polyp"], grid="pixels of the image")
    for index, (case, shift) in enumerate(shifts.items()):
        truth = np.zeros((side, side), np.uint8)
        truth[4 : 12 + index, 4 : 12 + index] = 1
        prob = np.where(np.roll(truth, shift, axis=1), 0.875, 0.25).astype(np.float32)
        files = {kind: folder / kind / f"{index}.png" for kind in ("truth", "pred")}
        for file, mask in zip(files.values(), (truth, prob >= 0.5), strict=True):
            write_picture_mask(file, mask)
        evaluation.add(case, prob >= 0.5, truth, prob=prob, files=files)
    evaluation.write(folder, context)
    return folder


def shown_masks(axes):
    """Colour of each filled area of a drawing and the number of its pixels."""
    pictures = [np.asarray(image.get_array()) for image in axes.images]
    filled = [rgba for rgba in pictures if rgba.ndim == 3 and rgba.shape[-1] == 4]
    return {to_hex(rgba[rgba[..., 3] > 0][0]): int((rgba[..., 3] > 0).sum()) for rgba in filled}
