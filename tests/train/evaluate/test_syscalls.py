"""The filter by its rules, instruction by instruction; test_sandbox.py meets it in the kernel."""

import struct

import pytest

from train.evaluate.syscalls import ALLOW, CLONE, CLONE3, ENOSYS, EPERM, ERRNO, KILL, MACHINES, MMAP, REFUSED, X32
from train.evaluate.syscalls import filter_program as build

PRIVATE_ANONYMOUS, SHARED_ANONYMOUS, SHARED_VALIDATE_ANONYMOUS, SHARED_FILE = 0x22, 0x21, 0x23, 0x01
THREAD, NEW_USER = 0x3D0F00, 0x10000011


def verdict(machine: str, number: int, audit: int, argument_0: int = 0, argument_3: int = 0) -> int:
    """What the filter returns for a system call: its instructions, run here."""
    data = struct.pack("=IIQ6Q", number, audit, 0, argument_0, 0, 0, argument_3, 0, 0)
    program, place, value = build(machine), 0, 0
    while True:
        code, if_true, if_false, operand = program[place]
        place += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        elif code == 0x54:
            value &= operand
        else:
            true = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
            place += if_true if true else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_each_call_has_its_verdict(machine: str) -> None:
    column, audit = MACHINES[machine]
    for numbers in REFUSED.values():
        assert verdict(machine, numbers[column], audit) == ERRNO | EPERM
    read, clone, mmap = (0, 63)[column], CLONE[column], MMAP[column]
    assert verdict(machine, read, audit) == ALLOW
    assert verdict(machine, read, audit ^ 1) == KILL  # another table of numbers
    assert verdict(machine, CLONE3[column], audit) == ERRNO | ENOSYS
    assert verdict(machine, clone, audit, argument_0=THREAD) == ALLOW
    assert verdict(machine, clone, audit, argument_0=NEW_USER) == ERRNO | EPERM
    for flags in (PRIVATE_ANONYMOUS, SHARED_FILE, 0x02):
        assert verdict(machine, mmap, audit, argument_3=flags) == ALLOW
    for flags in (SHARED_ANONYMOUS, SHARED_VALIDATE_ANONYMOUS):
        assert verdict(machine, mmap, audit, argument_3=flags) == ERRNO | EPERM


def test_the_second_table_of_x86_is_shut() -> None:
    assert verdict("x86_64", X32 | 1, MACHINES["x86_64"][1]) == KILL


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(OSError, match="no table of system calls for sparc"):
        build("sparc")
