"""What is said of deviations."""

import numpy as np

from segcore.drift.words import unusual_in

NAMES = ("mean green", "p99 green", "mean band 2", "deviation band 2")


def test_the_largest_deviation_of_each_band_is_told_first() -> None:
    assert unusual_in("bands", NAMES, np.array([3.14, 2.5, -1.0, -8.0]), 2.0) == [
        "band 2: 8.0 deviations with less contrast",
        "green band 3.1 deviations brighter",
    ]


def test_brighter_is_said_where_it_is_nearly_as_much_as_all_else() -> None:
    assert unusual_in("bands", NAMES[:2], np.array([-3.0, -5.9]), 2.0) == ["green band 3.0 deviations darker"]
    assert unusual_in("bands", NAMES[:2], np.array([-3.0, -6.1]), 2.0) == [
        "green band 6.1 deviations darker in the brightest parts"
    ]


def test_bands_that_say_the_same_are_told_of_together() -> None:
    names = ("mean red", "mean green", "mean blue")
    assert unusual_in("bands", names, np.array([4.0, 3.7, 4.1]), 2.0) == ["all bands 4.1 deviations brighter"]
    assert len(unusual_in("bands", names, np.array([4.0, 3.7, -4.1]), 2.0)) == 3
    assert len(unusual_in("bands", names, np.array([4.0, 3.0, 4.1]), 2.0)) == 3


def test_a_group_without_a_deviation_is_told_as_a_whole() -> None:
    assert unusual_in("texture", ("feature 0",), np.array([9.0]), 3.21) == [
        "features of the network 3.2 times as far from the training images as is usual"
    ]
    assert unusual_in("stain", ("amount eosin",), np.array([1.9]), 1.49) == []
