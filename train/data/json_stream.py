"""JSON values of a file of any size, one in memory at a time."""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

CHUNK_CHARACTERS = 1 << 20
SPACE = re.compile(r"[ \t\r\n]*")


def json_values(file: TextIO, most_characters: int) -> Iterator[Any]:
    """The elements of a list, or values one after another.

    Errors: `ValueError` for what is no JSON, and for a value of more than `most_characters`.
    """
    reader = _Reader(file)
    listed = reader.next_character() == "["
    if listed:
        reader.position += 1
    number = 0
    while (character := reader.next_character()) not in ("", "]" if listed else ""):
        if listed and number:
            if character != ",":
                raise ValueError(f"after value {number} stands {character!r}, not a comma")
            reader.position += 1
            reader.next_character()
        number += 1
        yield reader.value(number, most_characters)
    if listed:
        if not character:
            raise ValueError(f"the list is cut off after value {number}")
        reader.position += 1
        if reader.next_character():
            raise ValueError("something stands after the list")


class _Reader:
    """The text of a file from `position` on, as far as it was read."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self.position = file, "", 0
        self._decoder = json.JSONDecoder()

    def next_character(self) -> str:
        """The next character that is no white space, not taken; "" at the end."""
        while True:
            found = SPACE.match(self._text, self.position)
            assert found is not None
            self.position = found.end()
            if self.position < len(self._text) or not self._more(CHUNK_CHARACTERS):
                return self._text[self.position : self.position + 1]

    def value(self, number: int, most_characters: int) -> Any:
        """The value that begins here."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self.position)
                if end < len(self._text) or not self._more(CHUNK_CHARACTERS):  # the last number may go on
                    self.position = end
                    return value
            except json.JSONDecodeError as error:
                have = len(self._text) - self.position
                if have > most_characters:
                    raise ValueError(f"value {number} is longer than {most_characters:,} characters") from None
                if not self._more(max(have, CHUNK_CHARACTERS)):  # twice as much each time
                    raise ValueError(f"value {number}: {error.msg}") from None

    def _more(self, characters: int) -> bool:
        """Read on, and forget what is behind; whether there was anything."""
        read = self._file.read(characters)
        if read:
            self._text, self.position = self._text[self.position :] + read, 0
        return bool(read)
