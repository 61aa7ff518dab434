"""Nouns in messages."""

from conf.plural import plural


def test_one_is_singular() -> None:
    assert [plural("shard", number) for number in (0, 1, 1.0, 1.5, 2)] == [
        "shards",
        "shard",
        "shard",
        "shards",
        "shards",
    ]
