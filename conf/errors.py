"""The errors whose message is one line for the person at the terminal, and the node name such a line begins with."""

import os
import platform


class ConfigError(Exception):
    """The settings cannot make a run. Exit code 2."""


class DataError(Exception):
    """The data cannot be used. Exit code 2."""


class NodeError(Exception):
    """A machine is unfit or missing; the message names it. Exit code 3."""


def node_name() -> str:
    """This machine's name: `SLURMD_NODENAME` where Slurm started the process, else the host name."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()
