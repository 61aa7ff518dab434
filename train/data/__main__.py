"""`python -m train.data prepare key=value ...`: prepare the data of a run, so that training starts at once."""

import signal
import sys

from conf.compose import compose_settings
from conf.errors import ConfigError, DataError
from conf.exit_codes import BAD_INPUT, INTERRUPTED
from train.data.prepare import prepare
from train.stop import SIGNALS


def main(words: list[str]) -> int:
    """Prepare the data that `words` describe and return the exit code: 0, or 2 for what the user can put right."""
    for number in SIGNALS:  # what was begun is left behind unseen; the same command begins it again
        signal.signal(number, lambda *_: sys.exit(INTERRUPTED))
    try:
        if words[:1] != ["prepare"]:
            raise ConfigError("say what to do: python -m train.data prepare key=value ...")
        prepare(compose_settings(words[1:]))
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
