"""Explain: masks and their model -> *tables of bands and layers* that say why it said so."""

from segcore.explain.stage import explain

__all__ = ["explain"]
