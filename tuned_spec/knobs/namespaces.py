"""Network namespaces that have a name: `net.ipv4.tcp_rmem@netns=web` is that of /run/netns/web (ip-netns(8)).

Owns what such a name means. A knob of scope netns without one is that of this process's own namespace. Must
not know how another namespace is entered: that is `reach.netns`.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import KnobRefused
from ..model import Knob

SCOPE = "netns"
PREFIX = "netns="


def names(root: Path, entry: Knob) -> tuple[str, ...]:
    """`netns=NAME` of each, sorted; none for a knob that the namespaces share."""
    if entry.scope != SCOPE:
        return ()
    return tuple(sorted(PREFIX + file.name for file in (root / "run/netns").glob("*")))


def address(root: Path, knob: Knob, path: str) -> str:
    """`path` as it is to be reached: as it is, or from within the namespace that the instance names."""
    return f"netns:{_file(root, knob)}|{path}" if knob.instance else path


def identity(root: Path, knob: Knob) -> str:
    """`netns:[4026531840]` of this process, `inode:4026532999@/run/netns/web` of a name, "" of the host.

    A kernel without namespaces has only one: "".
    """
    if knob.scope != SCOPE:
        return ""
    file = _file(root, knob) if knob.instance else root / "proc/self/ns/net"
    try:
        inode = file.stat().st_ino
    except FileNotFoundError:
        return ""
    return f"inode:{inode}@{file}" if knob.instance else f"netns:[{inode}]"


def _file(root: Path, knob: Knob) -> Path:
    name = knob.instance.removeprefix(PREFIX)
    if name in ("", ".", "..") or set(name) & {"/", "|", "\0"}:
        hint = "give a name as `ip netns` lists it"
        raise KnobRefused(knob.id, "probe", f"{name!r} is not the name of a network namespace", hint=hint)
    return root / "run/netns" / name
