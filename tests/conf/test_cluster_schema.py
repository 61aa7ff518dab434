"""The settings of machines are typed, and the base file has a value for each."""

from dataclasses import fields
from pathlib import Path

import yaml

from conf.cluster_schema import ClusterConfig, GpuConfig, SlurmConfig

BASE = Path(__file__).parents[2] / "conf/cluster/base.yaml"


def test_the_base_file_sets_each_field_and_no_other() -> None:
    values = yaml.safe_load(BASE.read_text(encoding="utf-8"))
    for config, found in ((ClusterConfig, values), (GpuConfig, values["gpu"]), (SlurmConfig, values["slurm"])):
        assert set(found) - {"defaults"} == {each.name for each in fields(config)}
