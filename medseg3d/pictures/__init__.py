"""Pictures, masks and maps of pictures: decoded with care, written, painted on."""
