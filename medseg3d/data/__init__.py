"""Data sets and folders of results: layouts, splits, leaks, pairs of masks, records, caches.

Named here is what a notebook begins with, also out of `medseg3d.volumes` and `medseg3d.pictures`, and only what imports
fast: what needs torch (`medseg3d.data.cache`) or SimpleITK (`medseg3d.phantoms.ct`) is imported from its own module.
"""

from medseg3d.data.clinicdb import clinicdb_sequence
from medseg3d.data.fetch import fetch_kvasir_seg, fetch_pancreas
from medseg3d.data.loaded_pairs import LoadedPair, prediction_kind, read_pair
from medseg3d.data.mask_folders import MaskPair, paired_masks
from medseg3d.data.msd import MSDDataset, case_id, read_msd
from medseg3d.data.picture_folders import read_picture_folder, split_pictures
from medseg3d.data.splits import Leak, Split, find_leaks, load_or_make_split, make_split, read_split
from medseg3d.data.verify import VerificationResult, verify_msd, verify_pictures
from medseg3d.data.volume_splits import default_split_file, split_cases
from medseg3d.files.atomic import atomic_path, atomic_write, remove_leftovers
from medseg3d.pictures.masks import read_grey, read_picture_mask
from medseg3d.pictures.reading import read_picture
from medseg3d.pictures.writing import write_grey, write_picture_mask
from medseg3d.volumes.geometry import check_pair
from medseg3d.volumes.header import VolumeHeader
from medseg3d.volumes.label_maps import check_labels
from medseg3d.volumes.reading import read_header, read_volume

__all__ = [
    "Leak",
    "LoadedPair",
    "MSDDataset",
    "MaskPair",
    "Split",
    "VerificationResult",
    "VolumeHeader",
    "atomic_path",
    "atomic_write",
    "case_id",
    "check_labels",
    "check_pair",
    "clinicdb_sequence",
    "default_split_file",
    "fetch_kvasir_seg",
    "fetch_pancreas",
    "find_leaks",
    "load_or_make_split",
    "make_split",
    "paired_masks",
    "prediction_kind",
    "read_grey",
    "read_header",
    "read_msd",
    "read_pair",
    "read_picture",
    "read_picture_folder",
    "read_picture_mask",
    "read_split",
    "read_volume",
    "remove_leftovers",
    "split_cases",
    "split_pictures",
    "verify_msd",
    "verify_pictures",
    "write_grey",
    "write_picture_mask",
]
