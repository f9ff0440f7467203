"""Peak against the memory that a child is known to hold."""

import subprocess
import sys
import time

import pytest

from segcore.measure import Peak

SCRIPT = """
import subprocess, sys, time
from segcore.measure import Peak, tree_bytes
hold = "held = bytearray(b'1') * 150 * 1048576; print('ready', flush=True); input()"
with Peak(interval_s=0.02) as peak:
    before_mib = tree_bytes() / 2**20
    child = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    end = time.monotonic() + 60
    while peak.mib < before_mib + 150 and time.monotonic() < end:  # on a busy machine it looks once in seconds
        time.sleep(0.05)
    child.communicate(b"go")
print(before_mib, peak.mib, tree_bytes() / 2**20)
"""


def test_peak_counts_a_child_that_is_gone_at_the_end() -> None:
    """In an interpreter of its own: what a whole test run holds goes up and down by more than this."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before_mib, peak_mib, after_mib = map(float, done.stdout.split())
    assert 150 <= peak_mib - before_mib < 230  # the child's interpreter takes some
    assert after_mib < before_mib + 20


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
