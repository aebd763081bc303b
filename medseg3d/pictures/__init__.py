"""Pictures, masks and maps of images: decoded with care, written, painted on."""
