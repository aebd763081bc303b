"""CT series in DICOM, read as a volume is, and segmentations that refer to them; the extra `dicom` has the packages."""
