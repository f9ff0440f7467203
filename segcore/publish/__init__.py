"""Publish: workspace -> scores and pictures -> *reports/<run>/*: a page for people, JSON and Parquet for programs.

Reads what the pure `segcore.report` shows. Pictures come from coarse levels and single tiles, one at a time,
so memory does not grow with the images, and the page not with their number.
"""

from segcore.publish.stage import report

__all__ = ["report"]
