from pathlib import Path

import pytest

from tests.train.compare_runs import write_run, write_twelve
from train.compare.curves import chain_stages
from train.compare.read import read_folder
from train.compare.table import ComparisonRow, build_rows

HOSTILE = "<script>alert(1)<_script> & $x$ [red] {{data}} | =1+1"


@pytest.fixture(scope="session")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> list[ComparisonRow]:
    """Twelve runs with long names."""
    return build_rows(
        chain_stages([read_folder(run) for run in write_twelve(tmp_path_factory.mktemp("twelve"))]), 1, 2.9
    )


@pytest.fixture(scope="session")
def mixed_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of four runs: base, one that continues it, one with a hostile name, one whose records hold no time."""
    root = tmp_path_factory.mktemp("mixed")
    base = write_run(root, "base", stages="nl,multi", records=20)
    write_run(root, "tuned", f"stages.mono.init_from={base}", stages="mono", level=1.4, records=20)
    write_run(root, HOSTILE, "optimizer.weight_decay=0.3", stages="mono", level=1.9, records=20, upto=12)
    write_run(root, "old", stages="nl,mono", level=1.7, records=20, old=True)
    return root


@pytest.fixture(scope="session")
def mixed(mixed_root: Path) -> list[ComparisonRow]:
    """Rows of base, the run with the hostile name, old and tuned."""
    names = ("base", HOSTILE, "old", "tuned")
    return build_rows(chain_stages([read_folder(mixed_root / name) for name in names]), 1, 2.2)


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> list[ComparisonRow]:
    """Three seeds of one run, one of which has not finished, and a run with another weight decay and one seed."""
    root = tmp_path_factory.mktemp("swept")
    runs = [
        write_run(root, f"a-seed_{seed}", f"run.seed={seed}", level=1 + seed, records=20, upto=20 - 5 * (seed == 3))
        for seed in (1, 2, 3)
    ]
    runs.insert(1, write_run(root, "b-seed_1", "run.seed=1", "optimizer.weight_decay=0.3", records=20))
    return build_rows(chain_stages([read_folder(run) for run in runs]), 1, None)
