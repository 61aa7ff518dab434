"""Errors whose message is printed as one line, and the name of this machine for such lines."""

import os
import platform

HOST = "RUN_HOST"  # environment variable by which a launch tells a host the name that the hostfile has for it


class ConfigError(Exception):
    """The settings cannot make a run. Exit code 2."""


class DataError(Exception):
    """The data cannot be used. Exit code 2."""


class NodeError(Exception):
    """A machine is unfit or missing; the message names it. Exit code 3."""


class HealthError(Exception):
    """What was trained is not to be gone on from: not finite, a spike, or replicas that differ. Exit code 4.

    samples: positions [first, last) in the order of the data that are to blame, and are passed over; None: none are.
    """

    def __init__(self, message: str, samples: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.samples = samples


class MissingError(NodeError):
    """Processes did not come. ranks: those that did."""

    def __init__(self, message: str, ranks: list[int]) -> None:
        super().__init__(message)
        self.ranks = ranks


class UnreachableError(NodeError):
    """This process does not reach the main one, which therefore cannot report it. Exit code 3."""


def reason(error: Exception) -> str:
    """Why a file cannot be read, in words: of an error of the system without its number, and the file's name."""
    return getattr(error, "strerror", None) or str(error)


def node_name() -> str:
    """This machine's name: Slurm's where it started the process, the hostfile's on its hosts, else the host name."""
    return os.environ.get("SLURMD_NODENAME") or os.environ.get(HOST) or platform.node()
