"""A seccomp filter that refuses what a worker never does: start programs, fork, look into processes, mount, load code into the kernel.

A deny list on top of Landlock and a uid of its own: default is to allow, so a new libc or Python does not break a worker.
Refused calls fail with EPERM; clone3 with ENOSYS, upon which libc takes clone, whose flags a filter can read: threads
may be made, processes may not.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import platform
import struct

_X86_64 = 0xC000003E
_AARCH64 = 0xC00000B7

# (x86_64, aarch64) numbers; None where the architecture has no such call.
_REFUSED: dict[str, tuple[int | None, int]] = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, -1),
    "vfork": (58, -1),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "quotactl": (179, 60),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "personality": (135, 92),
    "syslog": (103, 116),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "modify_ldt": (154, -1),
    "mknod": (133, -1),
    "mknodat": (259, 33),
}
_CLONE = (56, 220)
_CLONE3 = 435
_CLONE_THREAD = 0x00010000

_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_X32_BIT = 0x40000000

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _op(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, k)


@functools.cache
def program(machine: str) -> bytes | None:
    """The filter for a machine as `platform.machine` names it, None for one we have no numbers for."""
    if machine == "x86_64":
        arch, column = _X86_64, 0
    elif machine == "aarch64":
        arch, column = _AARCH64, 1
    else:
        return None
    refuse = _op(_RETURN, _ERRNO | errno.EPERM)
    ops = [_op(_LOAD, 4), _op(_JEQ, arch, 1, 0), refuse, _op(_LOAD, 0)]
    if machine == "x86_64":
        ops += [_op(_JGE, _X32_BIT, 0, 1), refuse]
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None and number >= 0:
            ops += [_op(_JEQ, number, 0, 1), refuse]
    ops += [_op(_JEQ, _CLONE3, 0, 1), _op(_RETURN, _ERRNO | errno.ENOSYS)]
    # The low half of clone's first argument holds the flags.
    ops += [_op(_JEQ, _CLONE[column], 0, 3), _op(_LOAD, 16), _op(_JSET, _CLONE_THREAD, 1, 0), refuse]
    ops.append(_op(_RETURN, _ALLOW))
    return b"".join(ops)


def install() -> bool:
    """Puts the filter on this thread and all it makes later; needs no_new_privs. False where it cannot be had."""
    code = program(platform.machine())
    if code is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = _Program(len(code) // 8, code)
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(wanted), 0, 0) == 0)
