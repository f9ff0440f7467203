"""Instances: foreground and depth, as a model tells them -> *objects*, numbered over all of an image.

grow (a window's pixels by object) -> stitch (over the faces of shards) -> make (the label, in two ledgered passes)
"""
