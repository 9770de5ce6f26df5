"""Locks the process that runs somebody else's code: no files, no network, no other processes, no privileges.

Linux does it with three things that need no administrator: Landlock (which files may be opened), a seccomp filter
(which system calls may be made) and resource limits. It stands beside the learner's code, and so imports nothing
but Python's own library.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

ESSENTIAL = ("files", "network", "processes", "memory")
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

# ------------------------------------------------------------------------------------------------------- files

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
# How many rights there are, by version of Landlock's interface; a right that is not known must not be named.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}


def landlock_version() -> int:
    """The version of Landlock that this kernel offers, 0 for none."""
    if _libc is None:
        return 0
    return max(0, _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


def readable(ours: Path) -> list[Path]:
    """What a submission may read: its runner, Python, and the installed libraries but for the course itself."""
    found = [ours, Path("/dev/urandom"), Path("/usr/lib/locale"), Path("/usr/share/zoneinfo")]
    found += [Path(p) for p in ("/lib64", "/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib64")]
    found += [Path(p) for p in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu")]
    for folder in {Path(entry).resolve() for entry in sys.path if entry}:
        if folder.is_dir() and ours not in (folder, *folder.parents):
            inside = sorted(folder.iterdir())
            kept = [
                p for p in inside if "attn" not in p.name and p.name not in ("site-packages", "dist-packages")
            ]
            if folder.name in ("site-packages", "dist-packages") or (folder / "os.py").exists():
                found += [p for p in kept if p.suffix != ".pth"]
            elif folder.name == "lib-dynload":
                found.append(folder)
    return [path for path in found if path.exists()]


def _forbid_files(allowed: list[Path], version: int) -> None:
    every = (1 << _RIGHTS[min(version, max(_RIGHTS))]) - 1
    # From version 6 on: no signal and no abstract socket to anybody outside either.
    attributes = struct.pack("=QQQ", every, 0, 3) if version >= 6 else struct.pack("=Q", every)
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for path, rights in [
            *((p, _READ | _LIST | _EXECUTE) for p in allowed),
            (Path("/dev/null"), _READ | _WRITE),
        ]:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                rights = rights if path.is_dir() else rights & (_READ | _WRITE | _EXECUTE)
                rule = struct.pack("=Qi", rights, handle)
                _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint32(0))
            finally:
                os.close(handle)
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


# ------------------------------------------------------------------------------------------------ system calls

# Name -> number on x86_64, on aarch64. Refused in any case:
_REFUSED = {
    "socket": (41, 198), "socketpair": (53, 199), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "kill": (62, 129),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "setpriority": (141, 140),
    "ioprio_set": (251, 30), "kcmp": (312, 272), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_by_handle_at": (304, 265), "init_module": (175, 105),
    "finit_module": (313, 273), "setsid": (112, 157), "setpgid": (109, 154),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274), "syslog": (103, 116), "truncate": (76, 45),
    "creat": (85, None), "inotify_init": (253, None), "inotify_init1": (294, 26), "fanotify_init": (300, 262),
    "shmat": (30, 196), "shmctl": (31, 195), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182), "mq_timedreceive": (243, 183), "mq_notify": (244, 184),
    # Landlock does not ask about these: modes, owners, times and attributes of files.
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "setxattrat": (463, 463), "removexattrat": (466, 466), "file_setattr": (469, 469),
}  # fmt: skip
_CLONE, _CLONE3, _TGKILL, _PRLIMIT = (56, 220), (435, 435), (234, 131), (302, 261)
_OPENAT2 = 437
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_CLONE_THREAD = 0x10000
# Emptying a file as it is opened is writing, also where Landlock does not know.
_OPEN, _OPENAT = (2, None), (257, 56)
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
# fcntl may not name another process (F_SETOWN, F_SETOWN_EX) or a signal (F_SETSIG) for what happens to a file, nor
# watch one (F_SETLEASE, F_NOTIFY): the kernel would send the signal for it.
_FCNTL, _FCNTL_REFUSED = (72, 25), (8, 15, 10, 1024, 1026)
# ioctl may ask about a terminal, close on exec, count bytes; nothing else.
_IOCTL, _IOCTL_ALLOWED = (16, 29), (0x5401, 0x5413, 0x5450, 0x5451, 0x541B, 0x5421)


def _filter(pid: int) -> bytes:
    """The seccomp program: threads may be made, processes may not; a signal reaches the process itself alone."""
    which, architecture = _ARCHITECTURES[platform.machine()]
    load, equal, above, test, end = 0x20, 0x15, 0x35, 0x45, 0x06
    steps = [(load, 0, 0, 4), (equal, 1, 0, architecture), (end, 0, 0, _KILL), (load, 0, 0, 0)]
    steps += [(above, 0, 1, 0x40000000), (end, 0, 0, _EPERM)]  # x86_64's other table of numbers
    for numbers in _REFUSED.values():
        number = numbers[which]
        if number is not None:
            steps += [(equal, 0, 1, number), (end, 0, 0, _EPERM)]
    steps += [(equal, 0, 1, _CLONE3[which]), (end, 0, 0, _ENOSYS)]  # the C library then takes clone
    steps += [(equal, 0, 1, _OPENAT2), (end, 0, 0, _ENOSYS)]  # … and openat
    argument = 16  # where the first one stands
    steps += [(equal, 0, 4, _CLONE[which]), (load, 0, 0, argument), (test, 1, 0, _CLONE_THREAD)]
    steps += [(end, 0, 0, _EPERM), (end, 0, 0, _ALLOW)]
    for numbers, mine in ((_TGKILL, pid), (_PRLIMIT, 0)):
        steps += [(equal, 0, 4, numbers[which]), (load, 0, 0, argument), (equal, 1, 0, mine)]
        steps += [(end, 0, 0, _EPERM), (end, 0, 0, _ALLOW)]
    second, third = 24, 32  # where the next ones stand
    for number, flags in ((_OPEN[which], second), (_OPENAT[which], third)):
        if number is not None:
            steps += [(equal, 0, 4, number), (load, 0, 0, flags), (test, 0, 1, os.O_TRUNC)]
            steps += [(end, 0, 0, _EPERM), (end, 0, 0, _ALLOW)]
    for numbers, known, then, otherwise in (
        (_FCNTL, _FCNTL_REFUSED, _EPERM, _ALLOW),
        (_IOCTL, _IOCTL_ALLOWED, _ALLOW, _EPERM),
    ):
        steps += [(equal, 0, 2 * len(known) + 2, numbers[which]), (load, 0, 0, second)]
        for command in known:
            steps += [(equal, 0, 1, command), (end, 0, 0, then)]
        steps.append((end, 0, 0, otherwise))
    steps.append((end, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _forbid_calls() -> None:
    program = _filter(os.getpid())
    kept = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(kept))
    _prctl(22, 2, ctypes.c_char_p(header))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _call(number: int, *arguments: object) -> int:
    assert _libc is not None
    answer = _libc.syscall(number, *arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def _prctl(option: int, *arguments: object) -> None:
    assert _libc is not None
    padded = [*arguments, *[ctypes.c_ulong(0)] * (4 - len(arguments))]
    if _libc.prctl(option, *padded):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _drop_privileges() -> None:
    """What an administrator may do more than others, this process may not, nor can it get it back."""
    for capability in range(64):
        with contextlib.suppress(OSError):  # beyond the last one
            _prctl(24, ctypes.c_ulong(capability))  # PR_CAPBSET_DROP
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    number = {"x86_64": 126, "aarch64": 91}[platform.machine()]  # capset
    _call(number, header, nothing)


# --------------------------------------------------------------------------------------------------------- all


def _limit(seconds: float, more_bytes: int) -> None:
    import resource

    size = 0
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_FSIZE: 0,  # no file is written, wherever; pipes are no files
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if size and sys.platform == "linux":
        limits[resource.RLIMIT_AS] = size + more_bytes
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))


def confine(ours: Path, seconds: float, more_bytes: int) -> dict[str, str]:
    """Lock this process, for ever. Returns what could not be locked, and why, by its name in ``ESSENTIAL``.

    Args:
        ours: the sandbox's folder, which stays readable.
        seconds: of processor time.
        more_bytes: that may be taken beyond what is taken now.
    """
    missing: dict[str, str] = {}
    allowed = readable(ours)
    try:
        _limit(seconds, more_bytes)
    except (ImportError, OSError, ValueError) as error:
        missing["memory"] = str(error)
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        reason = f"not on {sys.platform}, {platform.machine()}"
        return {**dict.fromkeys(("files", "network", "processes"), reason), **missing}
    try:
        _prctl(38, ctypes.c_ulong(1))  # PR_SET_NO_NEW_PRIVS: needed by both that follow
        with contextlib.suppress(OSError):  # who has no privileges cannot drop any
            _drop_privileges()
        version = landlock_version()
        if not version:
            missing["files"] = "this kernel offers no Landlock"
        else:
            _forbid_files(allowed, version)
    except OSError as error:
        missing["files"] = f"Landlock: {error}"
    try:
        _forbid_calls()
    except OSError as error:
        missing.update(dict.fromkeys(("network", "processes"), f"seccomp: {error}"))
    return missing


def probe(secret: str) -> dict[str, str]:
    """Try, in a locked process, what must not work. Returns what did work, by its name in ``ESSENTIAL``."""
    open_doors: dict[str, str] = {}
    try:
        with open(secret, "rb"):
            open_doors["files"] = "the course's own files could be read"
    except OSError:
        pass
    try:
        with open("written", "wb") as file:
            file.write(b"x")
            file.flush()
            open_doors["files"] = "a file could be written"
    except OSError:
        pass
    try:
        os.chmod(".", 0o700)
        open_doors.setdefault("files", "the mode of a folder could be changed")
    except OSError:
        pass
    try:
        import socket

        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
        open_doors["network"] = "a socket could be opened"
    except OSError:
        pass
    try:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        open_doors["processes"] = "a process could be started"
    except OSError:
        pass
    try:
        os.kill(os.getppid(), 0)
        open_doors["processes"] = "another process could be sent a signal"
    except OSError:
        pass
    try:
        import fcntl

        fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())
        open_doors.setdefault("processes", "another process could be sent a signal for a file")
    except OSError:
        pass
    try:
        import mmap

        # Asked for, never touched, nor set aside: only the limit can refuse it.
        kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        mmap.mmap(-1, 1 << 36, flags=kind).close()
        open_doors["memory"] = "64 GiB could be taken"
    except (OSError, MemoryError, ValueError):
        pass
    return open_doors
