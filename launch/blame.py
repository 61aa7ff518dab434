"""Which rank failed, and on which node, by what a run and Slurm said; not the first that noticed.

`python -m launch.blame FILE NODE ...` prints the node to blame among those of the job, for the job's script.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# In this order: Slurm's or ssh's word of a task or a host that was lost; a rank's, the watchdog's, a launcher's or
# preflight's own line; any task that ended. A rank that only lost another says `lost another rank`
# (conf/command_line.py) and is not to blame. pdsh writes the host before what it said.
KILLED = re.compile(r"srun: error: (\S+): tasks? [\d,-]+: (?!Exited)\S|pdsh@\S+: (\S+): ssh exited with exit code 255")
SAID = re.compile(
    r"(?:\S+: )?error: (?!.*\blost another rank\b)"
    r"(?:ranks? [\d, ]+(?:and \d+ more )?\((\S+?)[,)]|(?:rank \d+ (?:\(process \d+ )?on )?(\S+?)[:,)]? )"
)
ENDED = re.compile(r"srun: error: (\S+): tasks? [\d,-]+: ")


def blamed_node(lines: Iterable[str], nodes: Sequence[str]) -> str | None:
    """The node that the lines blame, None where they blame none of `nodes`."""
    text = list(lines)
    for pattern in (KILLED, SAID, ENDED):
        for line in text:
            found = pattern.match(line)
            node = next(filter(None, found.groups()), None) if found else None
            if node in nodes:
                return node
    return None


def main(argv: list[str]) -> int:
    """Print the node to blame, or nothing."""
    path, nodes = Path(argv[0]), argv[1:]
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    node = blamed_node(lines, nodes)
    if node is not None:
        print(node)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
