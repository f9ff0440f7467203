"""Agreement: without a class table, one id means one class in all the images of a call."""

from collections.abc import Sequence

from segcore.classes import ClassInfo
from segcore.errors import SourceError
from segcore.ingest.tasks import Probe
from segcore.targets import agreed_table

COUNTED = ("index", "binary")
"""Kinds of targets whose classes have no names: only how many there are differs."""
OWN_NAMES = ("classes", "segments")
"""Kinds whose files name their classes, and give them ids."""
NAMES_ALONE = "shapes"
"""The kind whose files only name them: ids come from the names of all images."""


class Agreement:
    """The classes of all images, from what each of them has."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        counted = [found for found in probes if found.target_kind in COUNTED]
        self._counted = max(counted, key=lambda found: len(found.classes), default=None)
        """The one with the most ids."""
        self._named: dict[int, tuple[ClassInfo, str]] = {}
        """By id, with the file that named it first."""
        for found in probes:
            if found.target_kind in OWN_NAMES:
                for info in found.classes:
                    self._named.setdefault(info.id, (info, found.info.uri))
        shaped = [found.classes for found in probes if found.target_kind == NAMES_ALONE]
        self.table = agreed_table(shaped) if shaped else None
        """Of the kind whose files only name their classes."""

    def applied(self, found: Probe) -> Probe:
        """The probe with the classes of all.

        Raises:
            SourceError: if one of its ids has another name elsewhere; or if it was read as black and white, where the
                others hold so many ids that its 255 may mean ignore.
        """
        if found.target_kind in COUNTED:
            assert self._counted is not None
            most = self._counted.classes
            if found.target_kind == "binary" and len(most) > len(found.classes):
                raise SourceError(
                    f"{found.info.uri}: its mask holds 0 and 255 alone, which is background and foreground, but that "
                    f"of {self._counted.info.uri} holds ids up to {most[-1].id}, where 255 would mean ignore; give a "
                    "class table (--classes)"
                )
            return found.model_copy(update={"classes": most})
        if found.target_kind == NAMES_ALONE and self.table is not None:
            return found.model_copy(update={"classes": self.table.classes, "target_dtype": self.table.dtype})
        if found.target_kind not in OWN_NAMES:
            return found
        for info in found.classes:
            agreed, where = self._named[info.id]
            if agreed.name != info.name:
                raise SourceError(
                    f"{found.info.uri}: its class {info.id} is '{info.name}', that of {where} '{agreed.name}'; give a "
                    "class table (--classes), so that all agree"
                )
        return found.model_copy(update={"classes": tuple(self._named[number][0] for number in sorted(self._named))})
