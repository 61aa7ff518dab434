"""Hostile programs fail, the evaluator lives, and nothing is left behind."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.train.evaluate.cases import ALLOWED
from train.evaluate.sandbox import SCRIPT, Limits, SandboxError, isolation, run_program, run_programs

ROOT = Path(__file__).parents[3]
LIMITS = Limits(seconds=3, memory_bytes=2**30, sandbox=ALLOWED)  # of what fails, too, where it gets no time
PATIENT = replace(LIMITS, seconds=300)  # of what must pass or fail in its own way, however busy the machine is
USERS = range(200_000 + os.getpid() * 256, 200_000 + os.getpid() * 256 + 256)  # of this process's programs
MARK = "TEST_OF_SANDBOX"  # in the environment of every sandbox that this process starts: others test beside it
isolated = pytest.mark.skipif(isolation() is not None, reason=f"the kernel allows no isolation here: {isolation()}")


def processes_in_sandboxes() -> list[psutil.Process]:  # of this test; an environment that only root may read counts
    running = [p for p in psutil.process_iter(["cmdline", "environ"]) if str(SCRIPT) in (p.info["cmdline"] or [])]
    return [p for p in running if p.info["environ"] is None or p.info["environ"].get(MARK) == os.environ[MARK]]


def processes_of_programs() -> int:
    return sum(process.info["uids"].real in USERS for process in psutil.process_iter(["uids"]))


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 300  # busy machines stand still for half a minute
    while not holds():
        assert time.monotonic() < until, processes_in_sandboxes()
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def clean(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """After every program: no process of it, and nothing in the temporary folder."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr("train.evaluate.sandbox._overhead", lambda: 0.5)  # minutes where the machine stood still
    monkeypatch.setenv(MARK, str(folder))
    yield folder
    wait_until(lambda: not processes_in_sandboxes())
    assert not list(folder.iterdir())


def test_a_program_that_comes_to_its_end_passes() -> None:
    outcome = run_program("print('hello')", PATIENT)
    assert outcome.passed and outcome.output.strip() == "hello"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def broken(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("import os; os._exit(0)", "exit code 0"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
        ("input()", "EOFError"),
        ("while True: pass", "timed out after 3 s"),
        ("import time; time.sleep(60)", "timed out after 3 s"),
        ("x = bytearray(100 * 2**30)", "MemoryError"),
        ("while True: print('x' * 1000)", "printed more than"),
        ("import os\nwhile True: os.write(1, b'x' * 65536)", "printed more than"),
        ("with open('f', 'wb') as f:\n    while True: f.write(b'x' * 2**20)", "File too large"),
        ("import os\nx = [open('/dev/null') for _ in range(1000)]", "Too many open files"),
    ],
)
def test_what_does_not_come_to_its_end_fails(source: str, said: str) -> None:
    outcome = run_program(source, LIMITS if "timed out" in said else PATIENT)
    assert not outcome.passed and said in outcome.detail


@isolated
def test_a_fork_bomb_is_bounded_and_gone() -> None:
    seen: list[int] = []
    with ThreadPoolExecutor() as pool:
        source = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
        run = pool.submit(run_program, source, LIMITS)
        while not run.done():
            seen.append(processes_of_programs())
            time.sleep(0.05)
    assert not run.result().passed
    assert max(seen) <= LIMITS.processes


@isolated
@pytest.mark.parametrize(
    "source",
    [
        "import os; os.kill(os.getppid(), 9); import time; time.sleep(1); os.kill(-1, 9)",
        "import os, signal; os.kill(-1, signal.SIGKILL); assert 0",
        "import os\nfor pid in range(1, 5000):\n    try: os.kill(pid, 9)\n    except OSError: pass\nassert 0",
        "import os; os.kill(PID, 9)",
    ],
)
def test_nobody_outside_can_be_killed(source: str) -> None:
    other = subprocess.Popen(["sleep", "600"])
    assert not run_program(source.replace("PID", str(os.getpid())), LIMITS).passed
    assert other.poll() is None
    other.kill()
    other.wait()


@isolated
def test_nothing_outside_can_be_deleted_or_written(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    home = Path.home()
    before = set(os.listdir(home))
    source = (
        "import os, shutil\n"
        f"for folder in ({str(home)!r}, {str(tmp_path)!r}, os.path.expanduser('~'), '/etc', '/work', '/usr/bin'):\n"
        "    shutil.rmtree(folder, ignore_errors=True)\n"
        f"open({str(tmp_path / 'mine')!r}, 'w')"
    )
    assert not run_program(source, LIMITS).passed
    assert before <= set(os.listdir(home)), "others may write there"
    assert [path.name for path in tmp_path.iterdir()] == ["precious"] and Path("/etc/passwd").exists()


@isolated
def test_there_is_no_network() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = server.getsockname()
        source = f"import socket; socket.create_connection({address!r}, timeout=2)"
        assert "PermissionError" in run_program(source, PATIENT).detail
        socket.create_connection(address, timeout=2).close()  # from outside it answers


@isolated
def test_a_daemon_does_not_outlive_its_program() -> None:
    source = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        os.closerange(0, 10)\n        time.sleep(120)\n    os._exit(0)\n"
    )
    assert run_program(source, PATIENT).passed
    wait_until(lambda: not processes_of_programs())


@isolated
def test_the_program_finds_an_empty_folder_and_a_bare_environment() -> None:
    source = (
        "import os\nassert os.listdir('.') == [] and os.getcwd() == os.environ['HOME']\nopen('x', 'w').write('1')\n"
        "names = {name for name in os.environ if not name.endswith('_NUM_THREADS')}\n"
        "assert names <= {'HOME', 'TMPDIR', 'PATH', 'LANG', 'LC_CTYPE'}, names\n"
        "assert os.getuid() != 0 and len([p for p in os.listdir('/proc') if p.isdigit()]) < 4\nimport numpy\n"
    )
    outcome = run_program(source, PATIENT)
    assert outcome.passed, outcome


def test_many_run_at_once_and_keep_their_order() -> None:
    sources = [f"print({number})\nassert {number} % 3" for number in range(12)]
    outcomes = list(run_programs(sources, PATIENT, workers=4))
    assert [outcome.passed for outcome in outcomes] == [number % 3 != 0 for number in range(12)]
    assert [outcome.output.split()[0] for outcome in outcomes] == [str(number) for number in range(12)]


def test_long_programs_and_odd_characters_run() -> None:
    assert run_program(f"x = '{'a' * 300_000}'\nassert len(x) == 300_000\nprint('\ud800 \u00e9')", PATIENT).passed


@isolated
def test_the_memory_of_all_its_processes_is_bounded() -> None:
    """The kernel's bound is of each process alone; sixteen of them would have sixteen times as much."""
    source = (
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n"
        "        x = bytearray(60 * 2**20)\n        time.sleep(60)\ntime.sleep(60)"
    )
    outcome = run_program(source, Limits(seconds=300, memory_bytes=300 * 2**20))
    assert outcome.detail == f"used more than {300 * 2**20} bytes"


@isolated
@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.memfd_create('x')",
        "import mmap\nmmap.mmap(-1, 2**20)",  # shared: what is unmapped of it stays, and belongs to no process
        "import ctypes\nassert ctypes.CDLL(None).shmget(0, 2**20, 0o1666) != -1",
        "import mmap, os\nmmap.mmap(os.open('/dev/zero', os.O_RDWR), 2**20)",
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000 | 0x20000) == 0",  # there it could mount one
    ],
)
def test_there_is_no_memory_that_is_of_no_process(source: str) -> None:
    assert not run_program(source, PATIENT).passed


@isolated
def test_files_in_memory_count_as_memory() -> None:
    source = "for n in range(8):\n    open(str(n), 'wb').write(bytes(40 * 2**20))\nimport time; time.sleep(60)"
    outcome = run_program(source, Limits(seconds=300, memory_bytes=300 * 2**20, file_bytes=400 * 2**20))
    assert outcome.detail == f"used more than {300 * 2**20} bytes"


@isolated
@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_VSOCK", "AF_NETLINK"])
def test_no_socket_leads_out(family: str) -> None:
    source = f"import socket\nsocket.socketpair()\nsocket.socket(socket.{family}, socket.SOCK_STREAM)"
    assert "PermissionError" in run_program(source, PATIENT).detail


@isolated
def test_a_servers_socket_in_the_file_system_is_out_of_reach() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/server")
        server.listen()
        os.chmod(folder, 0o777)
        os.chmod(f"{folder}/server", 0o777)
        assert not run_program(f"import os\nassert os.path.exists({folder + '/server'!r})", PATIENT).passed


@isolated
def test_only_the_interpreter_and_the_system_can_be_read(tmp_path: Path) -> None:
    """Whatever a site calls its folders of data, none is there; neither is this repository or /etc's secrets."""
    folder = Path(tempfile.mkdtemp(dir="/opt" if os.access("/opt", os.W_OK) else "/var/tmp"))
    try:
        (folder / "key").write_text("secret")
        folder.chmod(0o755)
        (folder / "key").chmod(0o644)
        for path in (folder / "key", ROOT / "README.md", "/etc/shadow", "/etc/hostname", "/sys/kernel", "/var/log"):
            assert not run_program(f"import os\nassert os.path.lexists({str(path)!r})", PATIENT).passed
        top = "{'bin', 'sbin', 'lib', 'lib32', 'lib64', 'libx32', 'usr', 'etc', 'dev', 'proc', 'tmp', 'nix'}"
        prefixes = {Path(os.path.abspath(path)).parts[1] for path in (sys.prefix, sys.base_prefix)}
        prefixes |= {Path(os.path.realpath(path)).parts[1] for path in (sys.prefix, sys.base_prefix)}
        assert run_program(f"import os\nassert set(os.listdir('/')) - {prefixes!r} <= {top}", PATIENT).passed
    finally:
        shutil.rmtree(folder)


def test_without_namespaces_nothing_runs_unless_limits_alone_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.evaluate.sandbox.isolation", lambda: "not permitted")
    with pytest.raises(SandboxError, match=r"\(not permitted\).*sandbox=limits_only"):
        run_program("print(1)", Limits(seconds=30))


@isolated
def test_programs_die_first_where_memory_runs_out() -> None:
    assert run_program("assert open('/proc/self/oom_score_adj').read().strip() == '1000'", PATIENT).passed


def test_numpy_runs_whatever_the_number_of_cores() -> None:
    """It would start a thread a core; on a node with more cores than a program may have processes, none would run."""
    source = "import numpy\nassert (numpy.ones((300, 300)) @ numpy.ones((300, 300))).sum() == 300**3"
    outcome = run_program(source, replace(PATIENT, processes=1 if os.getuid() == 0 else 32))
    assert outcome.passed, outcome


def test_an_evaluator_that_is_killed_leaves_no_program(clean: Path) -> None:
    code = (
        "from train.evaluate.sandbox import Limits, run_program\n"
        "run_program('import time; time.sleep(100)', Limits(seconds=100))"
    )
    variables = {**os.environ, "TMPDIR": str(clean)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=variables) as evaluator:
        try:
            wait_until(lambda: len(processes_in_sandboxes()) >= 2)
        finally:
            evaluator.kill()
    wait_until(lambda: not processes_in_sandboxes())
    for folder in clean.iterdir():  # nobody was left to remove it
        folder.rmdir()


def test_a_linker_that_complains_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/nonexistent/library.so")
    assert run_program("print(1)", PATIENT).passed
    assert run_program("assert 0, 7", PATIENT).detail == "AssertionError: 7"


@isolated
def test_a_python_in_a_hidden_folder_is_found(tmp_path: Path) -> None:
    """The usual place of an environment is the home, which programs do not see; here it is behind a link as well."""
    venv.create(tmp_path / "home" / "venv", symlinks=True)
    (tmp_path / "link").symlink_to(tmp_path / "home")
    code = (
        "from train.evaluate.sandbox import Limits, isolation, run_program\n"
        "print(isolation(), run_program('import sys; print(sys.prefix)', Limits(seconds=300)))"
    )
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "link")}
    words = [tmp_path / "link/venv/bin/python", "-c", code]
    done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    wanted = f"None Outcome(passed=True, detail='', output='{tmp_path}/home/venv\\n')"
    assert done.stdout.strip() == wanted, done
