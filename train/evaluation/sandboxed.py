"""The inside of the sandbox: run as a script, by itself, for one program. It imports nothing of this project.

It reads a JSON object from standard input: `source`, `limits`, `visible` (folders that the program's Python needs),
`user` (an unprivileged user id, used where this script runs as root). It shuts itself off from the network, from other
processes and from writing, drops what privileges it has, and runs the program; what the kernel refuses is left out.
`python sandboxed.py --probe` prints which of these this machine allows.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MOUNT_SETATTR, AT_RECURSIVE, ATTR_RDONLY = 442, 0x8000, 1
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 38, 24
WORK = "/tmp"  # the program's only place to write, a file system in memory

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


def hide(visible, size):
    """Nothing can be written but WORK; homes and other people's folders are gone, but for what Python needs."""
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    kept = [(path, os.open(path, os.O_PATH)) for path in visible]

    class Attributes(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]

    read_only = Attributes(ATTR_RDONLY, 0, 0, 0)
    call(libc.syscall(MOUNT_SETATTR, -100, b"/", AT_RECURSIVE, ctypes.byref(read_only), ctypes.sizeof(read_only)))
    tops = {"/" + path.split("/")[1] for path in visible} - {"/usr", "/opt", "/lib", "/lib64", "/bin"}
    hidden = ("/root", "/home", "/run", "/var", "/mnt", "/srv", "/dev/shm", *sorted(tops))
    covered = [path for path in hidden if os.path.isdir(path)]
    for path in dict.fromkeys([*covered, WORK]):
        mount("none", path, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},mode=755")
    for path, descriptor in kept:
        if any(path.startswith(f"{top}/") for top in covered):
            os.makedirs(path, exist_ok=True)
            mount(f"/proc/self/fd/{descriptor}", path, "", MS_BIND | MS_REC)
            mount("none", path, "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID)
        os.close(descriptor)
    for path in covered:
        if path != WORK:
            mount("none", path, "", MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, f"size={size},mode=755")
    os.chmod(WORK, 0o1777)


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
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def run(task):
    """Run the program in the namespaces that were made and return its exit code. This process is their init."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if task["isolated"]:
        hide(task["visible"], task["limits"]["file_bytes"])
        with contextlib.suppress(OSError):  # else the program sees a /proc of processes that it cannot touch
            mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV)
        os.chdir(WORK)
    child = os.fork()
    if child == 0:
        limit(task["limits"])
        drop(task["user"])
        source = os.memfd_create("program")  # read to its end as standard input, it leaves none for the program
        os.write(source, task["source"].encode("utf-8", "replace"))
        os.lseek(source, 0, os.SEEK_SET)
        os.dup2(source, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        place = {"HOME": os.getcwd(), "TMPDIR": os.getcwd(), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        os.execve(sys.executable, [sys.executable, "-I", "-"], place)
    while True:
        ended, status = os.wait()
        if ended == child:
            return os.waitstatus_to_exitcode(status) & 0xFF


def main():
    """Read the task, shut off, run, and pass its exit code on."""
    if sys.argv[1:] == ["--probe"]:
        task = {"source": "print('isolated')", "visible": [sys.prefix, sys.base_prefix], "user": 65534}
        task["limits"] = {"cpu_seconds": 5, "memory_bytes": 2**32, "file_bytes": 2**20, "processes": 8}
    else:
        task = json.loads(sys.stdin.buffer.read())
    task["isolated"] = task.get("isolate", True)
    if task["isolated"]:
        isolate()
    init = os.fork()
    if init == 0:
        code = 125
        try:
            code = run(task)
        except OSError as error:
            print(f"sandbox: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(init, 0)[1]) & 0xFF)


if __name__ == "__main__":
    main()
