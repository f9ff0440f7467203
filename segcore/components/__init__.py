"""Components: connected pixels of one class, over all of an image, found cell by cell.

codes of a cell -> parts (its components) -> joined (over the faces of cells) -> labels (object ids, in two passes)
"""
