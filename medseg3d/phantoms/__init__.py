"""CT volumes and endoscopy pictures, drawn: data to try everything on without a download."""
