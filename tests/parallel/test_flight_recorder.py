"""A process knows which collective it waits in, and who has not begun it."""

import threading
import time
from pathlib import Path
from typing import Any

from parallel.flight_recorder import _span, behind, collectives
from tests.parallel import test_flight_recorder
from tests.worlds import Worlds, mesh_of


def told_while_one_is_late(folder: Path) -> dict[str, Any]:
    """What a process tells while ranks 0 and 1 wait for rank 2 in the sum over all."""
    mesh, told = mesh_of(), []

    def read() -> None:
        while (found := collectives())["waiting"] is None or found["begun"] == before:
            time.sleep(0.02)  # the one before may not be marked as over yet
        told.append(found)
        (folder / str(mesh.rank)).touch()

    mesh.any_rank(False)
    before = collectives()["begun"]
    if mesh.rank == 2:
        while len(list(folder.iterdir())) < 2:
            time.sleep(0.02)
        told.append(collectives())
        mesh.any_rank(False)
    else:
        reader = threading.Thread(target=read)
        reader.start()
        mesh.any_rank(False)
        reader.join()
    return told[0]


def test_the_collective_and_the_late_rank_are_known(tmp_path: Path, worlds: Worlds) -> None:
    told = dict(enumerate(worlds(3).run(test_flight_recorder.told_while_one_is_late, tmp_path)))
    assert told[2]["waiting"] is None
    for rank in (0, 1):
        assert told[rank]["waiting"].startswith("all_reduce ")
        assert told[rank]["waiting"].endswith(" of 1 elements with ranks 0-2")
    assert behind(told) == {2}
    assert behind({rank: of for rank, of in told.items() if rank != 2}) == set(), "what is not told is not known"


def test_ranks_are_listed_shortly() -> None:
    assert _span([3, 4, 5]) == "ranks 3-5" and _span([0, 2, 4]) == "ranks 0, 2, 4"
    assert _span(range(0, 40, 2)).endswith("12, 14 and 12 more")
