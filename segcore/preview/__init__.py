"""Preview: workspace, settings of a training -> *one HTML file* that shows what the network would see."""

from segcore.preview.preview import preview

__all__ = ["preview"]
