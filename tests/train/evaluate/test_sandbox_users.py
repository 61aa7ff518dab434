"""The sandbox for who is not root, and for root that a container keeps from making namespaces."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from train.evaluate.sandboxed import HARNESS_USERS

ROOT = Path(__file__).parents[3]
START = """
import os, time
from train.evaluate.sandbox import Limits, isolation, run_program as run
from conf.choices import Sandbox
allowed = Sandbox.full if isolation() is None else Sandbox.limits_only
limits = Limits(seconds=300, sandbox=allowed)
bomb = "import os\\nwhile True:\\n    try: os.fork()\\n    except OSError: pass"
daemon = "import os, time\\nif os.fork() == 0:\\n    os.setsid()\\n    os.closerange(0, 9)\\n    time.sleep(99)"
outcome = run("open('x', 'w').write('1'); import os; assert os.getuid() != 0", limits)
assert outcome.passed, outcome
assert not run(f"import os; os.kill({os.getpid()}, 9)", limits).passed
assert not run("open('/var/tmp/mine', 'w'); open('/etc/mine', 'w')", limits).passed
assert not run(bomb, Limits(seconds=2, sandbox=allowed)).passed
run(daemon, limits)
"""
NO_NAMESPACES = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")


@pytest.fixture
def python() -> Iterator[tuple[str, Path]]:
    """A Python that every user can run, and a folder with the sandbox that they can read."""
    found = next((path for path in (sys.executable, "/usr/bin/python3") if _can_run(path)), None)
    if found is None:
        pytest.skip("no Python that others than root can run")
    with tempfile.TemporaryDirectory(prefix="other-") as folder:
        shutil.copytree(ROOT / "train/evaluate", Path(folder) / "train/evaluate")
        shutil.copytree(ROOT / "conf", Path(folder) / "conf")
        os.chmod(folder, 0o755)
        yield found, Path(folder)


def test_who_is_not_root_is_isolated_as_well(python: tuple[str, Path]) -> None:
    code = START + "print(isolation())"
    done = subprocess.run(
        [python[0], "-c", code],
        cwd=python[1],
        user=65534,
        group=65534,
        extra_groups=[],
        env={"HOME": "/"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "not permitted" in done.stdout:
        pytest.skip("the kernel allows users no namespaces")
    assert done.stdout.strip() == "None", done


def test_root_without_namespaces_runs_programs_as_nobody_else(python: tuple[str, Path]) -> None:
    """As in a container with the usual rights; what a program left running is ended by its user."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    code = START + (
        "print(isolation())\n"
        "def left():\n"
        "    users = []\n"
        "    for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "        try:\n"
        "            state = open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[0]\n"
        "            users += [os.stat(f'/proc/{pid}').st_uid] if state != 'Z' else []\n"
        "        except OSError: pass  # it has ended meanwhile\n"
        "    return [user for user in users if 0 <= user - 200_000 - os.getpid() * 256 < 256]\n"
        "until = time.monotonic() + 300\n"  # a zombie has ended: init collects it when it likes
        "while left() and time.monotonic() < until:\n    time.sleep(0.1)\n"
        "print(left())"
    )
    done = subprocess.run(
        [*NO_NAMESPACES, python[0], "-c", code], cwd=python[1], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["PermissionError: [Errno 1] Operation not permitted", "[]"], done


def test_no_two_programs_have_one_user_at_a_time(python: tuple[str, Path]) -> None:
    """Or what ends the rest of one program ends the other: on a node of more cores than there are user ids."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    code = (
        "from train.evaluate import sandbox\n"
        "from conf.choices import Sandbox\n"
        "while sandbox.USERS.qsize() > 2:\n    sandbox.USERS.get()\n"
        "limits = sandbox.Limits(seconds=300, sandbox=Sandbox.limits_only)\n"
        "programs = [f'import time; time.sleep({0.02 * (n % 5)})' for n in range(16)]\n"
        "print([outcome.detail for outcome in sandbox.run_programs(programs, limits, workers=6) if outcome.detail])"
    )
    done = subprocess.run([*NO_NAMESPACES, python[0], "-c", code], cwd=python[1], capture_output=True, text=True)
    assert done.stdout == "[]\n", done


def test_users_of_harnesses_are_no_programs_users_of_another_evaluation() -> None:
    most = 2**22  # process ids that Linux gives at most
    assert 200_000 + (most + 1) * 256 <= 200_000 + HARNESS_USERS and HARNESS_USERS + 200_000 + most * 256 < 2**32 - 1


def _can_run(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", ""], user=65534, group=65534, cwd="/", check=False).returncode == 0
    except OSError:
        return False
