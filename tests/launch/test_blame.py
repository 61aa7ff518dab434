"""The node that failed is blamed, not the first that noticed."""

from pathlib import Path

import pytest

from launch.blame import blamed_node, main

LOST = "error: rank 0 on n1 lost another rank: RuntimeError: gloo ... Connection closed by peer"
DIED = "srun: error: n1: task 0: Exited with exit code 1"


@pytest.mark.parametrize(
    ("lines", "node"),
    [
        ([LOST, DIED, "srun: error: n2: task 1: Killed"], "n2"),
        ([LOST, DIED, "srun: error: n2: tasks 8-15: Out Of Memory"], "n2"),
        ([LOST, "error: rank 1 on n2: RuntimeError: a GPU fell off the bus", DIED], "n2"),
        (["error: rank 1 on n2 at codegen.py:9 forward: no progress for 600 s in nl step 3", DIED], "n2"),
        (["error: rank 1 on n2: no sign of life for 600 s in nl step 3, and the others wait", DIED], "n2"),
        (["error: n2: 0.5 GiB free for run.root; cluster.min_free_gib=1", DIED], "n2"),
        ([DIED, "srun: error: n2: task 1: Exited with exit code 1"], "n1"),
        ([LOST, "error: rank 9 (process 4711 on n2) ended first; the others were stopped"], "n2"),
        (["error: ranks 8, 9 and 6 more (n2) did not come within 300 s"], "n2"),
        ([f"n1: {LOST}", "pdsh@login: n1: ssh exited with exit code 1", "n2: error: rank 1 on n2: OSError: no"], "n2"),
        ([f"n1: {LOST}", "pdsh@login: n2: ssh exited with exit code 255"], "n2"),
        ([LOST, "error: n2: the connection to it ended"], "n2"),
        ([LOST, "slurmstepd: error: something else"], None),
        (["error: rank 1 on elsewhere: RuntimeError: no"], None),
    ],
)
def test_the_node_to_blame(lines: list[str], node: str | None) -> None:
    assert blamed_node(lines, ["n1", "n2"]) == node


def test_the_job_reads_a_name_or_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "errors").write_text("srun: error: n2: task 1: Killed\n")
    assert main([str(tmp_path / "errors"), "n1", "n2"]) == main([str(tmp_path / "none"), "n1"]) == 0
    assert capsys.readouterr().out == "n2\n"
