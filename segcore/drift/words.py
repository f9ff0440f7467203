"""Words: deviations of an image's statistics -> *what is unusual about it*, for people."""

from collections.abc import Sequence

from segcore.drift.distance import Floats

MOST = 3
"""Things said of one group."""
LEAST_DEVIATIONS = 2.0
"""Less is not worth a word."""
UNUSUAL_TIMES = 1.5
"""A group this many times as far off as usual is told of as a whole, where no single statistic stands out."""
TOLD = {
    "mean": ("brighter", "darker"),
    "amount": ("stronger", "weaker"),
    "deviation": ("with more contrast", "with less contrast"),
    "spread": ("more uneven", "more even"),
    "p1": ("brighter in the darkest parts", "darker in the darkest parts"),
    "p50": ("brighter in the middle", "darker in the middle"),
    "p99": ("brighter in the brightest parts", "darker in the brightest parts"),
}
"""Statistic -> what to say where it is higher, and where it is lower."""
ALIKE = 0.9
"""Bands whose deviations differ by no more than this part are told of together."""
PLAIN = ("mean", "amount")
"""Statistics that say most in few words: told where they stand out at least half as far as the one that does most."""


def unusual_in(group: str, names: Sequence[str], deviations: Floats, times: float) -> list[str]:
    """What stands out in one group: one thing of each band or stain, the largest deviation first.

    Args:
        group: bands, stain, texture.
        names: of its statistics, `mean green`.
        deviations: (statistics,), by how many deviations each is above the training images.
        times: how many times as far off the group is as usual.
    """
    by_subject: dict[str, dict[str, float]] = {}
    for name, deviation in zip(names, deviations.tolist(), strict=True):
        statistic, _, subject = name.partition(" ")
        if statistic in TOLD:
            by_subject.setdefault(subject, {})[statistic] = deviation
    chosen = [(subject, *_standing_out(found)) for subject, found in by_subject.items()]
    chosen.sort(key=lambda each: -abs(each[2]))
    if _are_alike([(statistic, deviation) for _, statistic, deviation in chosen]):
        chosen = [(f"all {group}", *chosen[0][1:])]
    words = [_word(group, *each) for each in chosen if abs(each[2]) >= LEAST_DEVIATIONS]
    if not words and times >= UNUSUAL_TIMES:
        what = "features of the network" if group == "texture" else f"{group} taken together"
        return [f"{what} {times:.1f} times as far from the training images as is usual"]
    return words[:MOST]


def _standing_out(found: dict[str, float]) -> tuple[str, float]:
    """The statistic of one band or stain to be told, and its deviation."""
    largest = max(found, key=lambda statistic: abs(found[statistic]))
    plain = next((statistic for statistic in PLAIN if statistic in found), largest)
    told = plain if 2 * abs(found[plain]) >= abs(found[largest]) else largest
    return told, found[told]


def _are_alike(found: Sequence[tuple[str, float]]) -> bool:
    """True if several bands say the same, the largest deviation first."""
    (statistic, largest), *others = found or [("", 0.0)]
    return bool(others) and all(each == statistic and deviation / largest >= ALIKE for each, deviation in others)


def _word(group: str, subject: str, statistic: str, deviation: float) -> str:
    higher, lower = TOLD[statistic]
    is_named = group == "bands" and not subject.startswith(("band", "channel", "all "))
    told = f"{subject} band" if is_named else f"{subject}:" if subject[-1].isdigit() else subject
    return f"{told} {abs(deviation):.1f} deviations {higher if deviation > 0 else lower}"
