"""`python -m train.data`: prepare the data of a run, and look at it."""

import signal
import sys

from conf.command_line import Command, run_command
from conf.compose import compose_settings
from conf.errors import ConfigError, DataError
from conf.exit_codes import INTERRUPTED
from train.stop import SIGNALS

COMMAND = Command(
    program="python -m train.data",
    usage="prepare|stats|inspect [GROUP=CHOICE ...] [KEY=VALUE ...]",
    summary="Downloads or reads the corpora of a run, filters and tokenizes them, and stores the tokens in data.cache, "
    "where every run with the same data settings finds them. `python -m launch` does this by itself before it trains. "
    "stats tells what was prepared and what was left out, inspect shows the first documents.",
    examples=(
        "python -m train.data prepare experiment=quickstart",
        "python -m train.data prepare model=350m data=hub data.corpora.nl.max_bytes=1_000_000_000",
        "python -m train.data stats experiment=quickstart",
    ),
    action="prepare",
    groups=True,
    resumable=True,
)


def main(argv: list[str]) -> int:
    """Prepare the data of the run that `argv` describes and return the exit code (conf/exit_codes.py)."""
    return run_command(prepare_data, argv, COMMAND)


def prepare_data(argv: list[str]) -> int:
    """Prepare the data. A signal ends the process at once: unfinished data is never visible."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: sys.exit(INTERRUPTED))
    _, words = COMMAND.split_flags(argv)
    if words[:1] not in (["prepare"], ["stats"], ["inspect"]):
        raise ConfigError("say what to do: python -m train.data prepare key=value ...; or stats, or inspect")
    from train.data.before import refuse_before_data
    from train.data.outlook import outlook
    from train.data.prepare import find_prepared, prepare  # slow to import: only for arguments that can run
    from train.data.statistics import inspection, statistics

    settings = compose_settings(words[1:])
    if words[0] != "prepare":
        data = find_prepared(settings)
        if data is None:
            raise DataError("the data is not prepared; say prepare with the same settings first")
        for line in statistics(data) if words[0] == "stats" else inspection(data):
            print(line)
        return 0
    refuse_before_data(settings)
    for line in outlook(settings, prepare(settings, say)):
        say(line)
    return 0


def say(line: str) -> None:
    """Print a line, a warning to stderr."""
    print(line, file=sys.stderr if line.startswith("warning: ") else sys.stdout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
