"""A stage's records as TensorBoard files, for machines without W&B: `tracking.tensorboard=true`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.wandb_run import flat

NOT_SHOWN = ("step", "stage")


class TensorBoard:
    """Writes records to event files in `folder`, each on disk before the call returns, with torch's own writer.

    rows: the stage's records so far. A new folder gets them first; in an old one they are already, and what was
    written after the last of them, before a kill, is taken back.
    """

    def __init__(self, folder: Path, rows: Sequence[dict[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # TensorBoard takes seconds to import

        missing = [] if folder.is_dir() else rows
        purge = max((row["step"] for row in rows), default=0) + 1 if folder.is_dir() else None
        self.writer = SummaryWriter(str(folder), purge_step=purge)
        for row in missing:
            self._add(row["step"], row)
        self.writer.flush()

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Write the numbers among `values`; lists are one curve per rank."""
        self._add(step, values)
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()

    def _add(self, step: int, values: dict[str, Any]) -> None:
        for key, value in flat({key: value for key, value in values.items() if key not in NOT_SHOWN}).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self.writer.add_scalar(key, value, step)
