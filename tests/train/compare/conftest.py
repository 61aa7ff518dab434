from pathlib import Path

import pytest

from tests.train.compare_runs import write_run, write_twelve
from train.compare.curves import chain
from train.compare.read import read_folder
from train.compare.table import ComparisonRow, rows_of

HOSTILE = "<script>alert(1)<_script> & $x$ [red] {{data}} | =1+1"


@pytest.fixture(scope="session")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> list[ComparisonRow]:
    """Twelve runs with long names."""
    return rows_of(chain([read_folder(run) for run in write_twelve(tmp_path_factory.mktemp("twelve"))]), 1, 2.9)


@pytest.fixture(scope="session")
def mixed_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, one that continues it, one with a name that means something to a browser, and one without time."""
    root = tmp_path_factory.mktemp("mixed")
    base = write_run(root, "base", stages="nl,multi", records=20)
    write_run(root, "tuned", f"stages.mono.init_from={base}", stages="mono", level=1.4, records=20)
    write_run(root, HOSTILE, "optimizer.weight_decay=0.3", stages="mono", level=1.9, records=20, upto=12)
    write_run(root, "old", stages="nl,mono", level=1.7, records=20, old=True)
    return root


@pytest.fixture(scope="session")
def mixed(mixed_root: Path) -> list[ComparisonRow]:
    """Rows of the base, the run with the hostile name, the old one, the tuned one."""
    names = ("base", HOSTILE, "old", "tuned")
    return rows_of(chain([read_folder(mixed_root / name) for name in names]), 1, 2.2)
