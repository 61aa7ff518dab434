"""Nouns in messages."""


def plural(noun: str, number: float) -> str:
    """`noun` as it stands after `number`."""
    return noun if number == 1 else f"{noun}s"
