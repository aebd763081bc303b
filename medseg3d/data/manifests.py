"""Lists of checksums that come with files from elsewhere, as `sha256sum` writes them."""

from __future__ import annotations

import re
from pathlib import Path

from medseg3d.errors import UsageError, UserError
from medseg3d.files.stream import file_sha256
from medseg3d.volumes.reading import volume_files

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


class Manifest:
    """The SHA-256 that each file had where it was made: lines `<64 hex digits>  <path>`, as `sha256sum` writes them.

    It finds what no file of its own can tell of, a flipped bit in a JPEG, a DICOM file or an uncompressed NIfTI.

    Args:
        path: the list; the paths in it are relative to its folder, or absolute.

    Raises:
        UserError: MISSING_FILE, BAD_VALUE (a line of another form, or none at all).

    Example:
        >>> import hashlib, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "ct.nii").write_bytes(b"voxels")
        >>> _ = (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(b'voxels').hexdigest()}  ct.nii")
        >>> Manifest(folder / "SHA256SUMS").check(folder / "ct.nii")
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UsageError(
                "MISSING_FILE", path, "no such file", "a checksum file written by sha256sum", "correct --manifest"
            )
        lines = [line for line in self.path.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if line]
        matches = [_LINE.fullmatch(line) for line in lines]
        if not lines or None in matches:
            wrong = repr(lines[matches.index(None)])[:80] if lines else "an empty file"
            raise UsageError(
                "BAD_VALUE",
                f"--manifest {path}",
                wrong,
                "lines as `sha256sum FILES` writes them",
                "write the file with sha256sum",
            )
        folder = self.path.absolute().parent
        self._sums = {(folder / match[2]).resolve(): match[1].lower() for match in matches if match}

    def check(self, image: str | Path) -> None:
        """See that the files of an image, or every file below a folder, are those that the list has.

        Raises:
            UserError: CHECKSUM (a file of another sum, or that the list does not name).
        """
        image = Path(image)
        files = sorted(path for path in image.rglob("*") if path.is_file()) if image.is_dir() else volume_files(image)
        for file in files:
            wanted = self._sums.get(file.resolve())
            if wanted is None:
                raise UserError(
                    "CHECKSUM",
                    file,
                    f"no checksum in {self.path}",
                    "a line for every file",
                    "add it on the machine where the file was made",
                )
            if (found := file_sha256(file)) != wanted:
                listed = f"{wanted[:12]} as in {self.path}"
                raise UserError("CHECKSUM", file, f"sha256 {found[:12]}", listed, "copy the file again from its source")
