"""The inside of the sandbox: run as a script, by itself, for one program. It imports nothing of this project
but what stands beside it.

It reads a JSON object from standard input: `source`, `harness` (trusted Python that tests the program), `limits`,
`python` (the interpreter), `visible` (what it needs: path as spelled -> real path), `paths` (where a harness finds
packages), `user` (an unprivileged user id, used where this script runs as root), `evaluator` (the id of the process
that started this one) and `isolate`. Where that is true, it shuts itself off from the network, from other processes
and from every file but the system's and the interpreter's. Then it starts the program, and beside it the harness, which
the program cannot reach. Exit code 0: the harness came to its end. 1: it did not, and a line `result: ` on standard
error says why. 125: there is no sandbox, for the reason in a line `sandbox: `.
"""

import contextlib
import ctypes
import glob
import json
import os
import resource
import signal
import sys
from typing import Any, NoReturn

sys.path.insert(0, os.path.abspath(f"{__file__}/../../.."))  # -I leaves it out
from train.evaluate import channel, syscalls

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_RDONLY, ATTR_NOSUID = 442, -100, 0x8000, 1, 2
PIVOT_ROOT, MNT_DETACH = {"x86_64": 155, "aarch64": 41}, 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
WORK = "/tmp"  # the program's only place to write, a file system in memory; before that, where its root is built
# Read by every program. The rest of /etc, /dev and all other folders are not there: /home, /scratch, /var, sockets.
SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/nix/store"),
    *("/etc/ld.so.cache", "/etc/alternatives", "/etc/passwd", "/etc/group", "/etc/localtime"),
    *glob.glob("/etc/java-*"),
    *("/dev/null", "/dev/random", "/dev/urandom"),  # not /dev/zero: a shared mapping of it is memory of no process
)
NOBODY = 65534
HARNESS_USERS = 2**31  # added to the program's user id, beyond those of the programs of any process (2**22 x 256)
LOOK_SECONDS = 0.05  # between two looks at the memory of all processes of a program
ENDED = 2  # exit code of a harness whose program has ended before it
# One thread each: numpy starts one a core, which on a large node is more than a program may have.
THREADS = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

libc = ctypes.CDLL(None, use_errno=True)


def call(result: int) -> None:
    """Raise what libc says where `result` is not 0."""
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    call(libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode()))


def isolate() -> None:
    """New namespaces for everything; without root, inside a user namespace of its own."""
    spaces = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS
    if os.geteuid() == 0:
        call(libc.unshare(spaces))
        return
    user, group = os.geteuid(), os.getegid()
    call(libc.unshare(spaces | NEWUSER))
    for name, text in (("setgroups", "deny"), ("uid_map", f"65534 {user} 1"), ("gid_map", f"65534 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def enclose(visible: dict[str, str], size: int) -> None:
    """A root of its own: SYSTEM and `visible`, read-only, and WORK, `size` bytes in memory. Nothing else is there."""
    places = {path: os.path.realpath(path) for path in SYSTEM if os.path.lexists(path)} | visible
    kept = {real: os.open(real, os.O_PATH) for real in sorted(set(places.values())) if os.path.exists(real)}
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    new = WORK
    mount("none", new, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for name in ("proc", WORK[1:]):
        os.mkdir(f"{new}/{name}")
    mount("none", new + WORK, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},mode=755")
    bound: list[str] = []
    for real, descriptor in kept.items():
        if not any(real.startswith(f"{top}/") for top in bound):
            bound.append(real)
            opened = f"/proc/self/fd/{descriptor}"  # by now the path may lead into the new root
            make_place(new + real, os.path.isdir(opened))
            mount(opened, new + real, "", MS_BIND | MS_REC)
            set_attributes(new + real, AT_RECURSIVE, ATTR_RDONLY | ATTR_NOSUID)
        os.close(descriptor)
    for path, real in places.items():
        if path != real and not os.path.lexists(new + path):
            os.makedirs(os.path.dirname(new + path), exist_ok=True)
            os.symlink(real, new + path)
    set_attributes(new, 0, ATTR_RDONLY)
    with contextlib.suppress(OSError):  # in some containers; then the memory of processes is not counted together
        mount("proc", f"{new}/proc", "proc", MS_NOSUID | MS_NODEV)
    os.chdir(new)
    call(libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."))
    call(libc.umount2(b".", MNT_DETACH))
    os.chdir("/")
    os.chmod(WORK, 0o1777)
    os.mkdir(f"{WORK}/program")  # not WORK itself: the interpreter's own folder may stand there
    os.chmod(f"{WORK}/program", 0o777)
    os.chdir(f"{WORK}/program")


def make_place(path: str, folder: bool) -> None:
    """An empty folder or file for something to be mounted on."""
    os.makedirs(path if folder else os.path.dirname(path), exist_ok=True)
    if not folder:
        os.close(os.open(path, os.O_CREAT))


def set_attributes(path: str, flags: int, wanted: int) -> None:
    """mount_setattr(2)."""

    class Attributes(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]

    attributes = Attributes(wanted, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    call(libc.syscall(MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, ctypes.byref(attributes), size))


def limit(limits: dict[str, int]) -> None:
    """Bounds that hold for each process, and for the number of them."""
    bounds = {
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for what, value in bounds.items():
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def drop(user: int) -> None:
    """Give up root, and every way back."""
    if os.geteuid() == 0:
        os.setgroups([])
        try:
            os.setresgid(user, user, user)
        except OSError:  # a container that knows few users
            user = NOBODY
            os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def run(task: dict[str, Any]) -> int:
    """Run the program and its harness in the namespaces that were made; return the exit code. This process is init."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if task["isolate"]:
        enclose(task["visible"], task["limits"]["file_bytes"])
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    counted = os.path.exists("/proc/1/statm") and os.readlink("/proc/self") == "1"  # /proc is of this namespace alone
    requests, replies, started, said = os.pipe(), os.pipe(), os.pipe(), os.pipe()
    program = os.fork()
    if program == 0:
        start_program(task, requests[0], replies[1], started[1])
    os.close(started[1])
    if problem := os.fdopen(started[0]).read():  # closed by execve
        raise OSError(problem)
    harness = os.fork()
    if harness == 0:
        os.close(requests[0])
        os.close(replies[1])
        start_harness(task, requests[1], replies[0], said[1])
    for descriptor in (*requests, *replies, said[1]):
        os.close(descriptor)
    code = wait_for(program, harness, counted and task["limits"]["memory_bytes"], said[0])
    with contextlib.suppress(ProcessLookupError):
        os.kill(program, signal.SIGKILL)  # without namespaces it would go on
    return code


def start_program(task: dict[str, Any], requests: int, replies: int, started: int) -> NoReturn:
    """Become the program; text on `started` says why that failed."""
    try:
        limit(task["limits"])
        drop(task["user"])
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(0, 2)
        os.dup2(requests, channel.REQUESTS)
        os.dup2(replies, channel.REPLIES)
        place = {"HOME": os.getcwd(), "TMPDIR": os.getcwd(), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        try:
            syscalls.refuse_system_calls()
        except OSError:
            if task["isolate"]:
                raise
        os.execve(task["python"], [task["python"], "-I", "-c", task["channel"] + "\nserve()"], place | THREADS)
    except BaseException as error:
        os.write(started, str(error).encode())
    os._exit(1)


def start_harness(task: dict[str, Any], requests: int, replies: int, said: int) -> NoReturn:
    """Be the harness: exit code 0 where it came to its end; else text on `said` is why, or ENDED the exit code."""
    code = ENDED
    try:
        limit(task["limits"])
        drop(task["user"] + HARNESS_USERS)
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # nobody else may look into it, of the same user neither
        for descriptor in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
        sys.path[:] = [path for path in sys.path[1:] if path not in task["paths"]] + task["paths"]
        detail = channel.judge(task["harness"], channel.Program(task["source"], requests, replies))
        if detail is not None:
            os.write(said, detail.encode("utf-8", "replace"))
        code = int(detail is not None)
    except channel.ProgramEnded:
        pass
    except BaseException as error:  # this machine's fault, not the program's
        os.write(said, f"the harness did not start: {error}".encode())
        code = 1
    finally:
        os._exit(code)


def wait_for(program: int, harness: int, memory: int, said: int) -> int:
    """The harness's verdict as an exit code; a line says what kept it from the end. memory: bound in bytes, or 0."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    codes: dict[int, int] = {}
    while True:
        ended, status = 0, 0
        with contextlib.suppress(ChildProcessError):
            ended, status = os.waitpid(-1, os.WNOHANG)
        if ended:
            codes[ended] = os.waitstatus_to_exitcode(status)
        if codes.get(harness) == 0:
            return 0
        if codes.get(harness, ENDED) != ENDED:
            return say(os.read(said, 4096).decode() or f"the harness ended with exit code {codes[harness]}")
        if harness in codes and program in codes:
            return say(f"exit code {codes[program]}")
        if not ended:
            if memory and memory_bytes() > memory:
                return say(f"used more than {memory} bytes")
            if harness in codes:  # the program has closed its end of the pipe
                with contextlib.suppress(ProcessLookupError):
                    os.kill(program, signal.SIGKILL)
            signal.sigtimedwait([signal.SIGCHLD], LOOK_SECONDS)


def say(detail: str) -> int:
    """Tell the evaluator why the verdict is no."""
    print("result: " + " ".join(detail.split()), file=sys.stderr, flush=True)
    return 1


def memory_bytes() -> int:
    """Memory of all processes of the program and of its files; the bound that the kernel keeps is of each alone."""
    pages = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            with contextlib.suppress(OSError), open(f"/proc/{name}/statm") as file:
                pages += int(file.read().split()[1])
    files = os.statvfs(WORK)
    return pages * resource.getpagesize() + (files.f_blocks - files.f_bfree) * files.f_frsize


def main() -> None:
    """Read the task, shut off, run, and pass the exit code on."""
    task = json.loads(sys.stdin.buffer.read())
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # an evaluator that is killed leaves no program
    if os.getppid() != task["evaluator"]:  # it was killed before
        sys.exit(125)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory runs out, programs go first
    with open(channel.__file__) as text:  # hidden from here on
        task["channel"] = text.read()
    with contextlib.suppress(OSError, AttributeError):  # training may have bound the evaluator to its own cores
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    if task["isolate"]:
        isolate()
    init = os.fork()
    if init == 0:
        code = 125
        try:
            code = run(task)
        except Exception as error:
            print(f"sandbox: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(init, 0)[1]) & 0xFF)


if __name__ == "__main__":
    main()
