"""The system calls that a program in the sandbox may not make, as a seccomp filter (seccomp(2)); run as part of
sandboxed.py, so it imports nothing of this project.

Namespaces do not cover all of these: AF_VSOCK reaches the host from every network namespace, a Unix socket is a file,
memory of memfds, of shared mappings and of System V belongs to no process that could be counted, and a new user
namespace would bring the right to mount file systems in memory. io_uring makes calls that no filter sees.
"""

import ctypes
import os
import struct

# name -> number on x86_64, on aarch64
REFUSED = {
    "socket": (41, 198),  # of any family; socketpair stays, which asyncio and multiprocessing use
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "unshare": (272, 97),
    "setns": (308, 268),
    "io_uring_setup": (425, 425),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
}
CLONE, CLONE3, MMAP = (56, 220), (435, 435), (9, 222)
NEW_NAMESPACES = 0x7E020000  # clone(2)'s flags
MAP_SHARED, MAP_TYPE, MAP_ANONYMOUS = 1, 0x0F, 0x20
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # -> column above, audit's name of it
X32 = 0x40000000  # x86_64's second table of numbers
EPERM, ENOSYS = 1, 38
KILL, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
LOAD, EQUAL, AT_LEAST, ANY_OF, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06  # classic BPF
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2


def filter_program(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter as (code, jump if true, jump if false, operand) per instruction. Errors: OSError for a machine
    whose numbers are not known."""
    if machine not in MACHINES:
        raise OSError(ENOSYS, f"no table of system calls for {machine}")
    column, audit = MACHINES[machine]
    program = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    if machine == "x86_64":
        program += [(AT_LEAST, 0, 1, X32), (RETURN, 0, 0, KILL)]
    for numbers in REFUSED.values():
        program += [(EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, ERRNO | EPERM)]
    # Its flags are behind a pointer, which a filter cannot follow; libc then uses clone.
    program += [(EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, ERRNO | ENOSYS)]
    program += [(EQUAL, 0, 4, CLONE[column]), (LOAD, 0, 0, 16)]
    program += [(ANY_OF, 0, 1, NEW_NAMESPACES), (RETURN, 0, 0, ERRNO | EPERM), (RETURN, 0, 0, ALLOW)]
    program += [(EQUAL, 0, 6, MMAP[column]), (LOAD, 0, 0, 40)]  # argument 3: flags
    program += [(ANY_OF, 0, 3, MAP_ANONYMOUS), (AND, 0, 0, MAP_TYPE)]
    program += [(ANY_OF, 0, 1, MAP_SHARED), (RETURN, 0, 0, ERRNO | EPERM), (RETURN, 0, 0, ALLOW)]
    return [*program, (RETURN, 0, 0, ALLOW)]


def refuse_system_calls() -> None:
    """Install the filter in this process, for it and all it starts; it needs PR_SET_NO_NEW_PRIVS. Errors: OSError."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in filter_program(os.uname().machine))
    instructions = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]

    program = Program(len(code) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")
