"""GDCM in a process of its own: a damaged JPEG stream can crash it, and it then takes no other case along."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import IO

import numpy as np

_LENGTH = 8  # bytes before each message, big-endian


class GdcmProcess:
    """The process, started with the first file and ended with the context.

    Example:
        >>> with GdcmProcess() as gdcm:
        ...     gdcm.pixels(b"no DICOM")
        Traceback (most recent call last):
        ValueError: pixels that GDCM does not decode
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> GdcmProcess:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def pixels(self, content: bytes) -> np.ndarray:
        """The pixels of a DICOM file, as pydicom's `pixel_array`.

        Raises:
            ValueError: GDCM refused them or crashed.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            _send(self._process.stdin, content)
            answer = _received(self._process.stdout)
        except OSError:  # it has crashed over an earlier file
            answer = b""
        if not answer:
            raise ValueError("pixels that GDCM does not decode")
        return np.load(io.BytesIO(answer), allow_pickle=False)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer each file with its pixels, and with nothing where there are none, until the other side hangs up."""
    import pydicom

    while content := _received(requests):
        answer = io.BytesIO()
        try:
            tags = pydicom.dcmread(io.BytesIO(content))
            tags.pixel_array_options(decoding_plugin="gdcm")
            np.save(answer, tags.pixel_array)
        except Exception:  # of any kind, on bytes of any kind
            answer = io.BytesIO()
        _send(answers, answer.getvalue())


def _send(stream: IO[bytes], message: bytes) -> None:
    stream.write(len(message).to_bytes(_LENGTH, "big") + message)
    stream.flush()


def _received(stream: IO[bytes]) -> bytes:
    """The next message; empty at the end of the stream, and where it ends too early."""
    length = int.from_bytes(stream.read(_LENGTH), "big")
    message = stream.read(length)
    return message if len(message) == length else b""


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what GDCM prints must not be taken for an answer
    serve(sys.stdin.buffer, answers)
