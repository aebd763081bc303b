"""medseg3d: five segmentation papers rebuilt on MONAI, to be reproduced, compared fairly and used on a real scan.

Research software; not a medical device and not for clinical use.
"""

__version__ = "0.1.0"
