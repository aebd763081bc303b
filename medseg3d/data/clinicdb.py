"""CVC-ClinicDB's 29 sequences: which frame is of which.

Bernal et al., *WM-DOVA maps for accurate polyp highlighting in colonoscopy*, Computerized Medical Imaging and Graphics
43, 99 (2015), doi:10.1016/j.compmedimag.2015.02.007. The 612 frames are numbered through, sequence after sequence, each
of one polyp looked at for a second or so: frames of a sequence are near-copies of one another.

The 29 sequences are of 23 patients, and which are of the same patient is not published with the frames: parts that
share no sequence may still share a patient.
"""

from __future__ import annotations

from bisect import bisect_right

from medseg3d.errors import UserError

FIRST_FRAMES = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298),
    *(318, 343, 364, 384, 409, 429, 448, 467, 479, 504, 529, 547, 572, 592),
)
"""First frame of sequences 1 to 29; each ends where the next begins, the last at frame 612.

The limits of 24 sequences were compared with the frames themselves. Sequences 3, 10, 14, 23 and 26 were not at hand:
theirs are what their neighbours leave.
"""

FRAMES = 612


def clinicdb_sequence(case: str) -> str:
    """The sequence of a frame of CVC-ClinicDB, `"clinicdb-01"` to `"clinicdb-29"`; any other case is its own group.

    A frame is a name that is a number, as in the data set itself and in PraNet's folders. There, frames of the other
    test sets are numbers too: below `TestDataset/` only those of `CVC-ClinicDB` are taken for its frames.

    Args:
        case: name of an image without suffix, with the folders it lies in, if any.

    Raises:
        UserError: GROUP_PATTERN for a number that is not a frame.

    Example:
        >>> [clinicdb_sequence(case) for case in ("25", "26", "TrainDataset/612", "cju0qkwl35piu0993l0dewei2")]
        ['clinicdb-01', 'clinicdb-02', 'clinicdb-29', 'cju0qkwl35piu0993l0dewei2']
        >>> clinicdb_sequence("TestDataset/ETIS-LaribPolypDB/25")
        'TestDataset/ETIS-LaribPolypDB/25'
    """
    *folders, name = case.split("/")
    if not (name.isascii() and name.isdigit()) or ("TestDataset" in folders and "CVC-ClinicDB" not in folders):
        return case
    if not 1 <= int(name) <= FRAMES:
        wanted = f"frames 1 to {FRAMES} of CVC-ClinicDB"
        raise UserError("GROUP_PATTERN", case, f"frame {int(name)}", wanted, "check whether this is another data set")
    return f"clinicdb-{bisect_right(FIRST_FRAMES, int(name)):02d}"
