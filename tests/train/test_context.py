"""What the processes of a run share: what one finds, all get, errors too."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from conf.errors import ConfigError, NodeError
from parallel.mesh import single_process_mesh
from tests.worlds import Worlds, mesh_of
from train.context import RunContext, on_main


def found_by_main(fails: type[Exception] | None) -> Any:
    """A case: the result on this process, or its error's text."""
    mesh = mesh_of(1, 1)

    def action() -> int:
        assert mesh.is_main
        if fails is not None:
            raise fails("the folder is taken")
        return 42

    try:
        return on_main(mesh, action)
    except (ConfigError, NodeError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    ("fails", "found"),
    [(None, 42), (ConfigError, "ConfigError: the folder is taken"), (NodeError, "NodeError: the folder is taken")],
)
def test_every_process_gets_what_the_main_one_found(
    worlds: Worlds, fails: type[Exception] | None, found: object
) -> None:
    assert worlds(2).run(found_by_main, fails) == [found, found]


def test_only_the_main_process_logs_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rank in (1, 0):
        mesh = replace(single_process_mesh(), rank=rank, size=2)
        none = cast(Any, None)
        context = RunContext(none, tmp_path, none, mesh, none, none, 1.0, none)
        context.log("stage nl")
        context.log("warning: slow")
        context.write(tmp_path / "x.json", {"a": 1})
        assert (tmp_path / "x.json").is_file() == (rank == 0)
        assert capsys.readouterr().out == ("stage nl\nwarning: slow\n" if rank == 0 else "")
