"""What `medseg3d view` shows: a scan or a 2-D image with its masks, as a page in the browser of this machine."""

from medseg3d.viewer.show import View, view, write_page

__all__ = ["View", "view", "write_page"]
