"""nnU-Net v2's own predictor, from CT file to mask file, with a network of ours in it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "pancreas": 1}, "file_ending": ".nii.gz"}


def nnunet_case(
    image: Path, folder: Path, network: torch.nn.Module, window_hu: tuple[float, float], knobs: dict
) -> Callable[[], Path]:
    """A call that makes the mask file of a CT file, as nnU-Net's plans of the same spacing and window would."""
    plans = PlansManager(plans_of(window_hu, knobs))
    with contextlib.redirect_stdout(io.StringIO()):
        device = torch.device(knobs["device"])
        predictor = nnUNetPredictor(1 - knobs["overlap"], use_mirroring=False, device=device, allow_tqdm=False)
    predictor.manual_initialization(
        network.to(device), plans, plans.get_configuration("3d_fullres"), [network.state_dict()], DATASET, "none", None
    )
    mask = folder / "nnunet_seg.nii.gz"
    files = SimpleITKIO()

    def call() -> Path:
        array, properties = files.read_images([str(image)])
        files.write_seg(predictor.predict_single_npy_array(array, properties), str(mask), properties)
        return mask

    return call


def plans_of(window_hu: tuple[float, float], knobs: dict) -> dict:
    """Plans with our spacing and windows, whose normalisation takes the window of HU to 0..1."""
    low, high = window_hu
    hounsfield = {"mean": low, "std": high - low, "percentile_00_5": low, "percentile_99_5": high}
    image, logits = {"is_seg": False, "order": 3}, {"is_seg": False, "order": 1}
    resampling = {"order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": "Dataset000_CT",
        "plans_name": "ours",
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": hounsfield},
        "configurations": {
            "3d_fullres": {
                "architecture": {},
                "data_identifier": "none",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 1,
                "patch_size": np.array(knobs["roi_size"])[::-1].tolist(),
                "spacing": list(knobs["spacing"])[::-1],
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": image | resampling,
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1} | resampling,
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": logits | resampling,
            }
        },
    }
