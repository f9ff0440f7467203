"""Components: connected pixels of one class, over all of an image, found block by block.

codes of a block -> parts (its components) -> joined (over the faces of blocks) -> labels (object ids, in two passes)
"""
