"""medseg3d: five segmentation papers rebuilt on MONAI, to be reproduced, compared fairly and used on a real scan.

Research software; not a medical device and not for clinical use.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["evaluate", "predict", "view"]


def __getattr__(name: str) -> Any:
    """What is imported only when it is requested: it brings torch and MONAI, and `--help` must be instant."""
    if name == "view":
        from medseg3d.viewer import view

        return view
    if name in __all__:
        from medseg3d import workflows

        return getattr(workflows, name)
    raise AttributeError(f"module 'medseg3d' has no attribute {name!r}")
