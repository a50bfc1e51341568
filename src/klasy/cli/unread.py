"""What goes with an aspect: the records in its log that nobody has read."""

from __future__ import annotations

from klasy.cli.table import plural, say


def unread(number: int) -> str:
    """``2 records that nobody had read``; nothing for none."""
    return f"{plural(number, 'record')} that nobody had read" if number else ""


class Unread:
    """Notes what goes, to say it when all is done. What somebody is reading is not lost: he reads it to its end."""

    def __init__(self) -> None:
        self._records: dict[str, int] = {}

    def note(self, aspect: str, number: int) -> None:
        """``number`` records were in the log of an aspect that is being taken out."""
        from klasy.log.readlock import is_read

        if not is_read(aspect):
            self._records[aspect] = number

    def say(self) -> None:
        """Say it on standard error."""
        for aspect, number in self._records.items():
            say(f"aspect '{aspect}' went with {unread(number)}")
