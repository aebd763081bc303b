"""medseg3d: five segmentation papers rebuilt on MONAI, to be reproduced, compared fairly and used on a real scan.

Research software; not a medical device and not for clinical use.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["predict"]


def __getattr__(name: str) -> Any:
    """`medseg3d.predict`, imported when it is asked for: it brings torch and MONAI, and `--help` must be instant."""
    if name == "predict":
        from medseg3d.workflows import predict

        return predict
    raise AttributeError(f"module 'medseg3d' has no attribute {name!r}")
