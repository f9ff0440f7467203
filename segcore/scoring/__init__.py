"""Scoring: mask + target -> *counts* -> scores.

`counts` is pure numpy and knows no store; `areas` turns pixels into physical units; `score` streams a workspace.
"""
