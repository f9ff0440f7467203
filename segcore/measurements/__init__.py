"""Measurements: objects of a mask -> *a row for each*, and totals, in pixels and in the user's units.

a window -> sums by object -> added up over windows -> columns -> Parquet and CSV
"""

from segcore.measurements.stage import measure

__all__ = ["measure"]
