"""A short torture: the faults of `tests.torture` that cost seconds, and the same weights in the end."""

from tests.torture import main


def test_a_run_that_is_disturbed_ends_with_the_weights_of_one_that_is_not() -> None:
    """A NaN on one rank, a full disk with W&B's server down, a second launch, a flipped byte in a checkpoint."""
    faults = "inject_nan,fill_the_disk,launch_again,damage_a_checkpoint"
    assert main(["--faults", faults, "--steps", "40", "--seed", "1"]) == 0
