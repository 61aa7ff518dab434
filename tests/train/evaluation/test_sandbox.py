"""Hostile programs fail, the evaluator lives, and nothing is left behind."""

import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from train.evaluation.sandbox import Limits, isolation, run_program, run_programs

LIMITS = Limits(seconds=3, memory_bytes=2**30)
isolated = pytest.mark.skipif(isolation() is not None, reason=f"the kernel allows no isolation here: {isolation()}")


def processes_in_sandboxes() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if "sandboxed.py" in " ".join(p.info["cmdline"] or [])]


@pytest.fixture(autouse=True)
def clean() -> object:
    """After every program: no process of it, and nothing in the temporary folder."""
    before = set(os.listdir("/tmp"))
    yield
    until = time.monotonic() + 5
    while processes_in_sandboxes() and time.monotonic() < until:
        time.sleep(0.1)
    assert not processes_in_sandboxes()
    assert not [name for name in set(os.listdir("/tmp")) - before if name.startswith("program-")]


def test_a_program_that_comes_to_its_end_passes() -> None:
    outcome = run_program("print('hello')", LIMITS)
    assert outcome.passed and outcome.output.strip() == "hello"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("assert 1 == 2", "exit code 1"),
        ("def broken(:", "exit code 1"),
        ("import sys; sys.exit(0)", "exit code 0"),
        ("import os; os._exit(0)", "exit code 0"),
        ("input()", "exit code 1"),
        ("while True: pass", "timed out after 3 s"),
        ("import time; time.sleep(60)", "timed out after 3 s"),
        ("x = bytearray(100 * 2**30)", "exit code 1"),
        ("while True: print('x' * 1000)", "printed more than"),
        ("import os\nwhile True: os.write(1, b'x' * 65536)", "printed more than"),
        ("with open('f', 'wb') as f:\n    while True: f.write(b'x' * 2**20)", "exit code 1"),
        ("import os\nx = [open('/dev/null') for _ in range(1000)]", "exit code 1"),
    ],
)
def test_what_does_not_come_to_its_end_fails(source: str, said: str) -> None:
    outcome = run_program(source, LIMITS)
    assert not outcome.passed and said in outcome.detail


@isolated
def test_a_fork_bomb_is_bounded_and_gone() -> None:
    before = len(psutil.pids())
    seen: list[int] = []
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            seen.append(len(psutil.pids()))
            time.sleep(0.05)

    counter = threading.Thread(target=count)
    counter.start()
    outcome = run_program("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", LIMITS)
    done.set()
    counter.join()
    assert not outcome.passed
    assert max(seen) < before + LIMITS.processes + 40


@isolated
@pytest.mark.parametrize(
    "source",
    [
        "import os; os.kill(os.getppid(), 9); import time; time.sleep(1); os.kill(-1, 9)",
        "import os, signal; os.kill(-1, signal.SIGKILL)",
        "import os\nfor pid in range(1, 5000):\n    try: os.kill(pid, 9)\n    except OSError: pass\nassert 0",
        f"import os; os.kill({os.getpid()}, 9)",
    ],
)
def test_nobody_outside_can_be_killed(source: str) -> None:
    other = subprocess.Popen(["sleep", "60"])
    assert not run_program(source, LIMITS).passed
    assert other.poll() is None
    other.kill()
    other.wait()


@isolated
def test_nothing_outside_can_be_deleted_or_written(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    home = Path.home()
    before = sorted(os.listdir(home))
    source = (
        "import os, shutil\n"
        f"for folder in ({str(home)!r}, {str(tmp_path)!r}, os.path.expanduser('~'), '/etc', '/work', '/usr/bin'):\n"
        "    shutil.rmtree(folder, ignore_errors=True)\n"
        f"open({str(tmp_path / 'mine')!r}, 'w')"
    )
    assert not run_program(source, LIMITS).passed
    assert sorted(os.listdir(home)) == before
    assert [path.name for path in tmp_path.iterdir()] == ["precious"] and Path("/etc/passwd").exists()


@isolated
def test_there_is_no_network() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = server.getsockname()
        source = f"import socket; socket.create_connection({address!r}, timeout=2)"
        assert "exit code 1" in run_program(source, LIMITS).detail
        socket.create_connection(address, timeout=2).close()  # from outside it answers


@isolated
def test_a_daemon_does_not_outlive_its_program() -> None:
    source = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        os.closerange(0, 10)\n        time.sleep(120)\n    os._exit(0)\n"
    )
    names = {"sleep", "python"}
    before = {p.pid for p in psutil.process_iter() if p.name() in names}
    run_program(source, LIMITS)
    time.sleep(0.5)
    late = [p for p in psutil.process_iter(["uids"]) if p.pid not in before and p.info["uids"].real >= 200_000]
    assert not late


@isolated
def test_the_program_finds_an_empty_folder_and_a_bare_environment() -> None:
    source = (
        "import os\nassert os.listdir('.') == [] and os.getcwd() == os.environ['HOME']\nopen('x', 'w').write('1')\n"
        "assert set(os.environ) <= {'HOME', 'TMPDIR', 'PATH', 'LANG', 'LC_CTYPE'}, os.environ\n"
        "assert os.getuid() != 0 and len([p for p in os.listdir('/proc') if p.isdigit()]) < 4\nimport numpy\n"
    )
    outcome = run_program(source, LIMITS)
    assert outcome.passed, outcome


def test_many_run_at_once_and_keep_their_order() -> None:
    sources = [f"print({number})\nassert {number} % 3" for number in range(12)]
    outcomes = list(run_programs(sources, LIMITS, workers=4))
    assert [outcome.passed for outcome in outcomes] == [number % 3 != 0 for number in range(12)]
    assert [outcome.output.split()[0] for outcome in outcomes] == [str(number) for number in range(12)]


def test_long_programs_and_odd_characters_run() -> None:
    assert run_program(f"x = '{'a' * 300_000}'\nassert len(x) == 300_000\nprint('\ud800 \u00e9')", LIMITS).passed
