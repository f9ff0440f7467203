"""Agreement: without a class table, one id means one class in all the images of a call."""

from collections.abc import Sequence

from segcore.classes import ClassInfo
from segcore.errors import SourceError
from segcore.ingest.child import Probe

COUNTED = ("index", "binary")
"""Kinds of targets whose classes have no names: only how many there are differs."""
OWN_NAMES = ("classes", "segments")
"""Kinds whose files name their classes."""


class Agreement:
    """The classes of all images, from what each of them has."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        kinds = {found.target_kind for found in probes}
        # A mask that happens to hold 0 and 1 alone looks binary.
        counted = [found.classes for found in probes if found.target_kind in COUNTED]
        self._counted = max(counted, key=len) if "index" in kinds else None
        self._named: dict[int, tuple[ClassInfo, str]] = {}
        """By id, with the file that named it first."""
        for found in probes:
            if found.target_kind in OWN_NAMES:
                for info in found.classes:
                    self._named.setdefault(info.id, (info, found.info.uri))

    def applied(self, found: Probe) -> Probe:
        """The probe with the classes of all.

        Raises:
            SourceError: if one of its ids has another name elsewhere.
        """
        if found.target_kind in COUNTED and self._counted is not None:
            return found.model_copy(update={"classes": self._counted})
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
