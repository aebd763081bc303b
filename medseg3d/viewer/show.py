"""The page of a scan or a 2-D image: written to a folder, or served and opened in the browser."""

from __future__ import annotations

import html
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from medseg3d.errors import UsageError
from medseg3d.files.atomic import atomic_write, make_folder
from medseg3d.knobs import split_name
from medseg3d.pictures.reading import PICTURE_SUFFIXES
from medseg3d.viewer.pictures import picture_page
from medseg3d.viewer.server import PageServer
from medseg3d.viewer.volumes import volume_page
from medseg3d.volumes.reading import volume_stem

_PAGE = Path(__file__).parent / "page"
_NOTEBOOK_HEIGHT = 720  # pixels


class View(PageServer):
    """A page that is being served, until `close` or the end of a `with`.

    The last value of a cell in a notebook, it is shown there.
    """

    def __enter__(self) -> View:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"View({self.url!r})"

    def _repr_html_(self) -> str:
        url = html.escape(self.url)
        return f'<iframe src="{url}" style="width:100%;height:{_NOTEBOOK_HEIGHT}px;border:0" allowfullscreen></iframe>'


def view(
    scan: str | Path,
    *masks: str | Path,
    class_names: Sequence[str] = (),
    series: str | int = "",
    port: int = 0,
    open_browser: bool | None = None,
) -> View:
    """Serve a page with a scan or 2-D image and its masks to this machine, and open it in the browser.

    Nothing is written to disk, and the page loads nothing from the network.

    Args:
        scan: NIfTI, NRRD or MetaImage, or DICOM as a folder, a ZIP or a file; or a JPEG, PNG, TIFF or BMP image.
        masks: masks or probability maps on its grid; `NAME=FILE` gives one a name.
        class_names: names of label values 1, 2, ...
        series: DICOM: number or UID of the series; "" for the only CT volume.
        port: on 127.0.0.1; 0 for a free one.
        open_browser: None for yes, except in a notebook, where the page is shown below the cell.

    Raises:
        UserError: as `medseg3d.viewer.volumes.volume_page` or `medseg3d.viewer.pictures.picture_page`; PORT_TAKEN.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> file = Path(tempfile.mkdtemp()) / "polyp.png"
        >>> Image.new("RGB", (30, 20)).save(file)
        >>> with view(file, open_browser=False) as page:
        ...     page.url.startswith("http://127.0.0.1:")
        True
    """
    page = View(page_files(scan, masks, class_names, series), port)
    if open_browser or (open_browser is None and "ipykernel" not in sys.modules):
        webbrowser.open(page.url)
    return page


def write_page(
    folder: str | Path,
    scan: str | Path,
    *masks: str | Path,
    class_names: Sequence[str] = (),
    series: str | int = "",
) -> Path:
    """Write the page, including the voxels, to a folder for any web server, and return its index.html.

    Raises:
        UserError: as `view`; NOT_WRITABLE, NO_SPACE, NOT_EMPTY.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError("NOT_EMPTY", folder, "files in it", "a new or empty folder", "choose another folder")
    files = page_files(scan, masks, class_names, series)
    make_folder(folder)
    for name, content in files.items():
        with atomic_write(folder / name) as file:
            file.write(content)
    return folder / "index.html"


def page_files(
    scan: str | Path, masks: Sequence[str | Path], class_names: Sequence[str] = (), series: str | int = ""
) -> dict[str, bytes]:
    """Name -> content of every file of a page."""
    scan = Path(scan)
    named = {}
    for each in masks:
        name, path = split_name(each)
        name = name or volume_stem(path.name).removesuffix(path.suffix)
        if name in named:
            raise UsageError(
                "NAME_COLLISION", name, "the name of two masks", "a name for each", "rename one with NAME=FILE"
            )
        named[name] = path
    for path in (scan, *named.values()):
        if not path.exists():
            raise UsageError("MISSING_FILE", path, "no such file", "a scan, a 2-D image or a mask", "correct the path")
    if scan.is_file() and scan.name.lower().endswith(PICTURE_SUFFIXES):
        own = picture_page(scan, named, class_names)
    else:
        own = volume_page(scan, named, class_names, str(series))
    return {**{part.name: part.read_bytes() for part in _PAGE.iterdir()}, **own}
