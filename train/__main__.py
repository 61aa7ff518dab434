"""`python -m train key=value ...`: one process of a run. `--cfg job` prints the composed settings instead."""

import errno
import os
import sys
import warnings

from conf.compose import compose_config, compose_settings
from conf.errors import ConfigError, DataError, NodeError, node_name
from conf.exit_codes import BAD_INPUT, BAD_NODE
from train.stop import StopSignal

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # full, over quota, read-only, broken


def main(words: list[str]) -> int:
    """Train what `words` describe and return the exit code: 0, or 2 for what the user can put right."""
    main_process = os.environ.get("RANK", "0") == "0"
    stop = StopSignal()
    bind_cores()
    try:
        if words[:2] == ["--cfg", "job"] or words[-2:] == ["--cfg", "job"]:
            return print_settings([word for word in words if word not in ("--cfg", "job")])
        settings = compose_settings(words, int(os.environ.get("WORLD_SIZE", "1")))
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # DeepSpeed's calls
        from train.loop import train  # torch and DeepSpeed are loaded only for settings that can run

        return train(settings, stop)
    except (ConfigError, DataError, NodeError) as error:
        if main_process or "does not reach" in str(error):
            print(f"error: {error}", file=sys.stderr, flush=True)
        return BAD_NODE if isinstance(error, NodeError) else BAD_INPUT
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK:
            print(f"error: {node_name()}: {error}", file=sys.stderr, flush=True)
            return BAD_NODE
        print(
            f"error: rank {os.environ.get('RANK', '0')}: {type(error).__name__}: {error}", file=sys.stderr, flush=True
        )
        raise


def print_settings(words: list[str]) -> int:
    """Print the composed, checked settings as YAML."""
    from omegaconf import OmegaConf

    compose_settings(words)
    print(OmegaConf.to_yaml(compose_config(words)), end="")
    return 0


def bind_cores() -> None:
    """Without GPUs, keep each of a machine's processes to cores of its own, so that they do not chase each other.

    Slurm binds the processes it starts; more processes than cores share them in turn.
    """
    if (
        os.environ.get("DS_ACCELERATOR") != "cpu"
        or "SLURM_PROCID" in os.environ
        or not hasattr(os, "sched_setaffinity")
    ):
        return
    rank, size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_SIZE", "1"))
    os.sched_setaffinity(0, own_cores(sorted(os.sched_getaffinity(0)), rank, size))


def own_cores(cores: list[int], rank: int, size: int) -> list[int]:
    """The `rank`-th of `size` equal shares of `cores`; one core, shared, where there are fewer cores than processes."""
    if size > len(cores):
        return [cores[rank % len(cores)]]
    return cores[rank * len(cores) // size : (rank + 1) * len(cores) // size]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
