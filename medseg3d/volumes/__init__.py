"""Volumes in NIfTI, NRRD and MetaImage: read and checked, written in the geometry of their image, compared, cut."""
