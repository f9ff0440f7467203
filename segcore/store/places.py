"""Places: where the arrays of an image lie in the workspace, by their names.

"image" is the image itself; a label has its own name; a layer that of `layer_name`; objects that of `instances_name`.
"""

_LAYER = "_layer."
"""Begins no label: their names begin with a letter or a digit."""
_INSTANCES = "_instances"
"""Ends the name of a label of object ids, also that of the target's."""


def array_prefix(image_id: str, name: str) -> str:
    """Where an image (`name` = "image"), one of its labels, or a layer (`layer_name`) lies."""
    if is_layer(name):
        return f"layers/{image_id}/{name.removeprefix(_LAYER)}.ome.zarr"
    image = f"images/{image_id}.ome.zarr"
    return image if name == "image" else f"{image}/labels/{name}"


def layer_name(mask: str, kind: str) -> str:
    """The name of a mask's layer among those of images and labels, none of which begins so."""
    return f"{_LAYER}{mask}.{kind}"


def mask_of_layer(name: str, kind: str) -> str:
    """The mask's name out of that of its layer."""
    return name.removeprefix(_LAYER).removesuffix(f".{kind}")


def instances_name(mask: str) -> str:
    """The name of the label of a mask's objects, or a target's."""
    return f"{mask}{_INSTANCES}"


def is_instances(name: str) -> bool:
    """True for the name of a label of object ids."""
    return name.endswith(_INSTANCES)


def is_layer(name: str) -> bool:
    """True for a layer's name."""
    return name.startswith(_LAYER)


def is_label(name: str) -> bool:
    """True for the name of a target, mask or other label."""
    return name != "image" and not is_layer(name)
