"""Peak against the memory that a child is known to hold."""

import subprocess
import sys
import time

import pytest

from segcore.measure import Peak, tree_bytes

HOLD = "import sys, time; held = bytearray(b'1') * {mib} * 1048576; print('ready', flush=True); sys.stdin.read()"


def test_peak_counts_a_child_that_is_gone_at_the_end() -> None:
    with Peak(interval_s=0.02) as peak:
        before_mib = peak.mib
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD.format(mib=150)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        child.communicate()
    assert 150 <= peak.mib - before_mib < 230  # the interpreter itself takes some
    assert tree_bytes() / 2**20 < peak.mib - 120


def test_peak_measures_seconds_and_stops_its_thread() -> None:
    with Peak(interval_s=0.01) as peak:
        time.sleep(0.2)
        assert peak.seconds > 0.19
    seconds = peak.seconds
    assert 0.2 <= seconds < 2
    time.sleep(0.05)
    assert peak.seconds == seconds


def test_peak_reports_when_the_block_raises() -> None:
    with pytest.raises(KeyError), Peak() as peak:
        raise KeyError
    assert peak.mib > 5
