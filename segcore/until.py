"""Until: the moment after which a stage takes no new work; a time of day, with or without its time zone -> *a moment*.

The moment is found once, when a stage begins. Whether a night is 7, 8 or 9 hours long, because the clocks change in it,
is the time zone's affair.
"""

import re
from datetime import UTC, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

TIME_OF_DAY = r"^([01]\d|2[0-3]):[0-5]\d( [A-Za-z0-9_+/-]+)?$"
"""`06:00`, or `06:00 Europe/Berlin`."""


class Until:
    """A moment, or none; cheap to ask.

    Args:
        text: a time of day, the next one that comes; or a moment as ISO 8601 has it, with its offset; None = never.
        now: by default the clock's.

    Raises:
        ValueError: if it is neither.
    """

    def __init__(self, text: str | None, now: datetime | None = None) -> None:
        self.moment = None if text is None else moment_of(text, now or datetime.now(UTC))

    @property
    def is_over(self) -> bool:
        """True from the moment on."""
        return self.moment is not None and datetime.now(UTC) >= self.moment


def moment_of(text: str, now: datetime) -> datetime:
    """The moment in UTC that a text means, seen from `now`.

    Raises:
        ValueError: if it means none.
    """
    if not re.fullmatch(TIME_OF_DAY, text):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = datetime.min
        if moment.tzinfo is None:
            raise ValueError(f"expected a time of day such as 06:00 or 06:00 Europe/Berlin, got '{text}'")
        return moment.astimezone(UTC)
    clock, _, name = text.partition(" ")
    zone = _zone(name) if name else None
    today, wanted = now.astimezone(zone).date(), time.fromisoformat(clock)
    found = _at(datetime.combine(today, wanted), zone)
    return found if found > now else _at(datetime.combine(today + timedelta(days=1), wanted), zone)


def _at(wall: datetime, zone: tzinfo | None) -> datetime:
    """A time on the wall as a moment; of the machine's own time zone where none is given."""
    return (wall.replace(tzinfo=zone) if zone else wall.astimezone()).astimezone(UTC)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"'{name}' is no time zone; expected one such as Europe/Berlin or UTC") from error


def checked_until(text: str | None) -> str | None:
    """For `field_validator`: what `Until` understands; or none.

    Raises:
        ValueError: if it does not.
    """
    Until(text)
    return text
