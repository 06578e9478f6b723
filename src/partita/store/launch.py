"""Start a PostgreSQL program in a session of its own and, if we are root, without being root.

Run as a script, since a fork of a threaded Python must not run Python code: ``launch.py MODE UID GID PROGRAM ARG...``.
PostgreSQL refuses to run as root. MODE "namespace" enters a user namespace in which root's files belong to UID, so
that nothing on disk changes owner; "drop" becomes UID for good; "plain" changes nothing. Exit code 125: not permitted.
"""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWUSER = 0x10000000
NOT_PERMITTED = 125


def enter_namespace(uid: int, gid: int) -> None:
    """Enter a user namespace that shows our own user as `uid`; OSError if the kernel does not permit it."""
    own_uid, own_gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {own_uid} 1"), ("gid_map", f"{gid} {own_gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def drop_to(uid: int, gid: int) -> None:
    """Become another user for good."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def launch(mode: str, uid: int, gid: int, argv: list[str]) -> None:
    """Replace this process by `argv`, as described above."""
    os.setsid()
    os.umask(0o077)
    try:
        if mode == "namespace":
            enter_namespace(uid, gid)
        elif mode == "drop":
            drop_to(uid, gid)
        os.execv(argv[0], argv)
    except (OSError, AttributeError) as problem:
        print(problem, file=sys.stderr)
        sys.exit(NOT_PERMITTED)


if __name__ == "__main__":
    launch(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
