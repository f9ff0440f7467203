"""View: workspace -> *pages in a browser*: a list of images, and each with its masks to pan and zoom. Reads only."""

from segcore.view.serve import view

__all__ = ["view"]
