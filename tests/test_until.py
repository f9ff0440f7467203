"""Until: the moment that a time of day means, also where the clocks change."""

from datetime import UTC, datetime, timedelta

import pytest

from segcore.until import Until, checked_until, moment_of


@pytest.mark.parametrize(
    ("text", "now", "moment"),
    [
        ("06:00 UTC", "2026-03-01T22:00+00:00", "2026-03-02T06:00+00:00"),
        ("06:00 UTC", "2026-03-01T05:59+00:00", "2026-03-01T06:00+00:00"),
        ("06:00 UTC", "2026-03-01T06:00+00:00", "2026-03-02T06:00+00:00"),
        ("06:00 Europe/Berlin", "2026-03-01T22:00+00:00", "2026-03-02T05:00+00:00"),
        # The night in which the clocks go forward has an hour less, the one in which they go back one more.
        ("06:00 Europe/Berlin", "2026-03-28T21:00+00:00", "2026-03-29T04:00+00:00"),
        ("06:00 Europe/Berlin", "2026-10-24T20:00+00:00", "2026-10-25T05:00+00:00"),
        # 02:30 does not exist in the first of them: an hour after 01:30.
        ("02:30 Europe/Berlin", "2026-03-28T21:00+00:00", "2026-03-29T01:30+00:00"),
        ("00:30 Asia/Tokyo", "2026-03-01T15:00+00:00", "2026-03-01T15:30+00:00"),
        ("2026-03-01T06:00+02:00", "2026-03-05T00:00+00:00", "2026-03-01T04:00+00:00"),
    ],
)
def test_moment_of_a_text(text: str, now: str, moment: str) -> None:
    assert moment_of(text, datetime.fromisoformat(now)) == datetime.fromisoformat(moment)


def test_without_a_zone_it_is_the_machines() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    found = moment_of("06:00", now)
    assert now < found <= now + timedelta(days=1, hours=1)
    assert f"{found.astimezone():%H:%M}" == "06:00"


@pytest.mark.parametrize("text", ["6", "24:00", "06:00 Nowhere/Land", "06:00 ../etc/passwd", "2026-03-01T06:00", ""])
def test_what_means_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        checked_until(text)


def test_until_is_over_from_the_moment_on() -> None:
    now = datetime.now(UTC)
    assert Until((now - timedelta(seconds=1)).isoformat()).is_over
    assert not Until((now + timedelta(minutes=1)).isoformat()).is_over
    assert not Until(None).is_over
