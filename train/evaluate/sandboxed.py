"""The inside of the sandbox: run as a script, by itself, for one program. It imports nothing of this project.

It reads a JSON object from standard input: `source`, `limits`, `python` (the interpreter), `visible` (folders that it
needs), `user` (an unprivileged user id, used where this script runs as root), `evaluator` (the id of the process that
started this one) and `isolate`. It shuts itself off from the network, from other processes and from writing where
`isolate` is true, bounds and drops what it has, and runs the program. Its own errors begin with `sandbox: `.
"""

import contextlib
import ctypes
import json
import os
import pwd
import resource
import signal
import sys

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MOUNT_SETATTR, AT_RECURSIVE, ATTR_RDONLY = 442, 0x8000, 1
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 38, 24
WORK = "/tmp"  # the program's only place to write, a file system in memory
HIDDEN = ("/root", "/home", "/run", "/var", "/mnt", "/srv", "/dev/shm")
NOBODY = 65534
SYSTEM = {"/", "/usr", "/opt", "/lib", "/lib64", "/bin", "/sbin"}  # read by every program, so never hidden
LOOK_SECONDS = 0.05  # between two looks at the memory of all processes of a program
# One thread each: numpy starts one a core, which on a large node is more than a program may have.
THREADS = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

libc = ctypes.CDLL(None, use_errno=True)


def call(result):
    """Raise what libc says where `result` is not 0."""
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(source, target, kind, flags, options=""):
    """mount(2)."""
    call(libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode()))


def isolate():
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


def forbid():
    """No System V memory or queues, which are of no process and not counted: where the kernel lets this be set."""
    for name in ("shmmni", "msgmni"):
        with contextlib.suppress(OSError), open(f"/proc/sys/kernel/{name}", "w") as file:
            file.write("0")


def hide(visible, homes, size):
    """Nothing can be written but WORK; homes and other people's folders are gone, but for what Python needs."""
    kept = [(path, os.open(path, os.O_PATH)) for path in visible]

    class Attributes(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]

    read_only = Attributes(ATTR_RDONLY, 0, 0, 0)
    call(libc.syscall(MOUNT_SETATTR, -100, b"/", AT_RECURSIVE, ctypes.byref(read_only), ctypes.sizeof(read_only)))
    tops = ["/" + path.split("/")[1] for path in visible]
    hidden = {os.path.realpath(path) for path in (*HIDDEN, *homes, *tops) if os.path.isdir(path)}
    hidden -= SYSTEM | set(visible)
    covered = [path for path in sorted(hidden) if not any(path.startswith(f"{top}/") for top in hidden)]
    for path in dict.fromkeys([*covered, WORK]):
        mount("none", path, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},mode=755")
    for path, descriptor in kept:
        if any(path.startswith(f"{top}/") for top in covered):
            os.makedirs(path, exist_ok=True)
            mount(f"/proc/self/fd/{descriptor}", path, "", MS_BIND | MS_REC)
        os.close(descriptor)
    for path in covered:
        if path != WORK:
            mount("none", path, "", MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, f"size={size},mode=755")
    os.chmod(WORK, 0o1777)


def homes():
    """Where this user's files are, by the environment and by the system."""
    found = [os.path.expanduser("~")]
    with contextlib.suppress(KeyError):
        found.append(pwd.getpwuid(os.getuid()).pw_dir)
    return found


def limit(limits):
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


def drop(user):
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


def run(task):
    """Run the program in the namespaces that were made and return its exit code. This process is their init."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if task["isolate"]:
        mount("none", "/", "", MS_REC | MS_PRIVATE)
        forbid()
        hide(task["visible"], task["homes"], task["limits"]["file_bytes"])
        with contextlib.suppress(OSError):  # else the program sees a /proc of processes that it cannot touch
            mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV)
        os.mkdir(f"{WORK}/program")  # not WORK itself: there the interpreter's own folder may stand
        os.chmod(f"{WORK}/program", 0o777)
        os.chdir(f"{WORK}/program")
    counted = os.path.exists("/proc/1/statm") and os.readlink("/proc/self") == "1"  # /proc is of this namespace alone
    child = os.fork()
    if child == 0:
        limit(task["limits"])
        drop(task["user"])
        source = os.memfd_create("program")  # read to its end as standard input, it leaves none for the program
        os.write(source, task["source"].encode("utf-8", "replace"))
        os.lseek(source, 0, os.SEEK_SET)
        os.dup2(source, 0)
        report = os.dup(2)  # closed by execve: the program cannot speak for the sandbox
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        place = {"HOME": os.getcwd(), "TMPDIR": os.getcwd(), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        try:
            os.execve(task["python"], [task["python"], "-I", "-"], place | THREADS)
        finally:
            os.dup2(report, 2)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == child:
            return os.waitstatus_to_exitcode(status) & 0xFF
        if ended == 0:
            if counted and memory_bytes() > task["limits"]["memory_bytes"]:
                print(f"sandbox: used more than {task['limits']['memory_bytes']} bytes", file=sys.stderr, flush=True)
                return 128 + signal.SIGKILL
            signal.sigtimedwait([signal.SIGCHLD], LOOK_SECONDS)


def memory_bytes():
    """Resident memory of all processes of the program; the bound that the kernel keeps is of each alone."""
    pages = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            with contextlib.suppress(OSError), open(f"/proc/{name}/statm") as file:
                pages += int(file.read().split()[1])
    return pages * resource.getpagesize()


def main():
    """Read the task, shut off, run, and pass its exit code on."""
    task = json.loads(sys.stdin.buffer.read())
    task["homes"] = homes()
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # an evaluator that is killed leaves no program
    if os.getppid() != task["evaluator"]:  # it was killed before
        sys.exit(125)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory runs out, programs go first
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
