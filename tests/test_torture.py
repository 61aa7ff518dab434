"""A short torture: the faults of `tests.torture` that cost seconds, and the same weights in the end."""

from tests.torture import main


def test_a_run_that_is_disturbed_ends_with_the_weights_of_one_that_is_not() -> None:
    """A NaN on one rank, then a flipped byte in the newest checkpoint; a full disk, with W&B's server down."""
    faults = "inject_nan+damage_a_checkpoint,fill_the_disk"
    assert main(["--faults", faults, "--seed", "1"]) == 0
