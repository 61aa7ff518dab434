"""The prediction against rates that others and this stack measured on GPUs."""

import pytest

from conf.compose import compose_settings
from train.plan.published import PUBLISHED, Published, compare_published, predicted_mfu


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.source} {row.model} {row.gpu}")
def test_measured_rates_are_predicted_within_a_tenth(row: Published) -> None:
    settings = compose_settings([f"cluster=slurm_{row.gpu.lower()}"])
    found = predicted_mfu(row, settings.cluster.gpu, settings.model, settings.layout)
    assert found == pytest.approx(row.mfu, rel=0.1)


def test_a_plan_shows_the_rates_of_its_own_gpu() -> None:
    rows = compare_published(compose_settings(["cluster=slurm_h100"]))
    assert {row["model"] for row in rows} == {row.model for row in PUBLISHED if row.gpu == "H100"}
    assert compare_published(compose_settings(["cluster=slurm_h100", "cluster.gpu.peak_tflops=2250"])) == []
