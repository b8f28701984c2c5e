"""Users and groups by name and number, as this host knows them, and who may write to a socket of ours."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path


def gid_of(group: str) -> int:
    """-1, which leaves a file's group as it is, where there is no such group or we may not give it away."""
    try:
        return grp.getgrnam(group).gr_gid if os.geteuid() == 0 else -1
    except KeyError:
        return -1


def may_report(uid: int, path: Path) -> bool:
    """Whether that user gets past the socket's mode: it is ours, or of a group that the user is in."""
    status = path.stat()
    if uid in (0, status.st_uid):
        return True
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return False
    return status.st_gid in os.getgrouplist(user.pw_name, user.pw_gid)


def user_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"(user {uid}, who has no name here)"


def name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "nobody known"


def uid_of(user: str) -> int:
    return int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
