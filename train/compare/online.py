"""Records of a stage from W&B's server: `wandb:entity/project/run_id`."""

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.compose import typed
from conf.errors import ConfigError
from conf.schema import Settings
from train.compare.read import NoRecords, StageRecords

WANDB_PREFIX = "wandb:"


def read_wandb_run(name: str, api: Any) -> StageRecords:
    """The stage that a W&B run recorded. name: `wandb:entity/project/run_id`. api: `wandb.Api()`.

    Errors: `ConfigError` for a malformed path, a run that cannot be read, or one that this stack did not record.
    """
    path = name.removeprefix(WANDB_PREFIX)
    if len([part for part in path.split("/") if part]) != 3:
        raise ConfigError(f"{name} is no W&B run; write wandb:entity/project/run_id")
    try:
        run = api.run(path)
        config, rows = dict(run.config), [dict(row) for row in run.scan_history()]
        state, display_name = str(run.state), str(run.name)
    except Exception as error:  # the client raises errors of many libraries
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{name} cannot be read from W&B: {reason}; check the path and `wandb login`") from None
    lineage = config.pop("lineage", None)
    config = {key: value for key, value in config.items() if key in Settings.__dataclass_fields__}
    try:
        settings = typed(cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.create(config))))
    except OmegaConfBaseException:
        lineage = None
    if not isinstance(lineage, dict) or lineage.get("stage") not in settings.stages:
        raise ConfigError(f"{name} ({display_name}) is no run of this stack: its config holds no settings of a stage")
    stage = str(lineage["stage"])
    records = [
        {key: value for key, value in row.items() if value is not None} | {"stage": stage, "step": row["_step"]}
        for row in rows
        if row.get("tokens") is not None
    ]
    if not records:
        raise NoRecords(f"{name} has no records yet; compare it when it has trained a step")
    key = str(Path(lineage["run"]) / "stages" / stage)
    # W&B also calls a run finished that was stopped, and saved; with patience a stage may end before its last step
    reached = records[-1]["step"] == settings.stages[stage].steps or settings.stages[stage].patience is not None
    scores = {key: value for key, value in records[-1].items() if key.startswith("bits_per_byte/")}
    return StageRecords(
        key,
        settings.run.name,
        stage,
        None,
        settings,
        records,
        lineage["parent"],
        state == "finished" and reached,
        state == "running",
        scores,
    )
