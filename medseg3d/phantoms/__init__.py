"""CT volumes and endoscopy images, drawn: data to try everything on without a download."""
