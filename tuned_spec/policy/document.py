"""One YAML file as a small tree that remembers its lines.

Owns the defence against hostile bytes: size, encoding, depth, aliases, tags, duplicate keys. Must not
know what a policy is. Every scalar stays the text that was written, so that `off`, `010` and `1:30`
mean what they say and are read by whoever knows their type.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import yaml

MAX_BYTES = 256 * 1024
MAX_DEPTH = 8

# line, key, what is wrong, what to do
Report = Callable[[int, str, str, str], None]

# The C parser where libyaml is there (ten times faster); both give the same events.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Text(msgspec.Struct, frozen=True):
    line: int
    text: str


class Items(msgspec.Struct, frozen=True):
    line: int
    items: list[Node]


class Table(msgspec.Struct, frozen=True):
    """`lines` holds the line of each key, `entries` its value."""

    line: int
    entries: dict[str, Node]
    lines: dict[str, int]


Node = Text | Items | Table


def shown(text: str) -> str:
    """Foreign text fit for one line of a terminal: quoted, escaped, cut."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")


def read(path: Path, report: Report) -> Node | None:
    """The tree of one file; None if there is none, and then `report` has been told why."""
    try:
        # O_NONBLOCK: opening a FIFO must not hang the daemon's start.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                report(1, "file", "is not a regular file", "name a policy file")
                return None
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        report(1, "file", f"cannot be read: {why}", "check its name and mode")
        return None
    if len(data) > MAX_BYTES:
        report(1, "file", f"is larger than {MAX_BYTES // 1024} KiB", "split it into several policies")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        report(line, "file", f"byte 0x{data[error.start]:02x} is not UTF-8", "save the file as UTF-8")
        return None
    return parse(text, report)


def parse(text: str, report: Report) -> Node | None:
    try:
        return _build(text, report)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        hint = "indent with spaces, not tabs" if "\\t" in what or "'\t'" in what else "check the YAML here"
        report(1 if mark is None else mark.line + 1, "yaml", what.replace("\t", "\\t"), hint)
    except yaml.YAMLError as error:  # the reader: a control character
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position if isinstance(position, int) else 0) + 1
        report(line, "yaml", "a control character that YAML does not allow", "delete it")
    return None


def _build(text: str, report: Report) -> Node | None:
    """Folds the parser's flat events by hand: no recursion, so depth cannot hurt."""
    root: Node | None = None
    open_nodes: list[Items | Table] = []
    keys: list[Text | None] = []  # beside `open_nodes`: the key that waits for its value
    documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        node: Node
        match event:
            case yaml.DocumentStartEvent():
                documents += 1
                if documents > 1:
                    report(
                        line, "yaml", "a second document begins here", "one policy a file: delete the '---'"
                    )
                    return None
                continue
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                open_nodes.pop()
                keys.pop()
                continue
            case yaml.AliasEvent():
                report(line, "yaml", "an alias", "write the value out: anchors and aliases are not read")
                return None
            case yaml.NodeEvent() if event.anchor:
                report(line, "yaml", "an anchor", "write the value out: anchors and aliases are not read")
                return None
            case yaml.ScalarEvent(tag=str(tag)) | yaml.CollectionStartEvent(tag=str(tag)):
                report(line, "yaml", f"the tag {shown(tag)}", "delete it: a policy is plain text")
                return None
            case yaml.ScalarEvent():
                node = Text(line, event.value)
            case yaml.SequenceStartEvent():
                node = Items(line, [])
            case yaml.MappingStartEvent():
                node = Table(line, {}, {})
            case _:
                continue
        if not open_nodes:
            root = node
        elif isinstance(parent := open_nodes[-1], Items):
            parent.items.append(node)
        elif (key := keys[-1]) is None:
            if not isinstance(node, Text):
                report(line, "yaml", "a list or mapping as a key", "a key is one word")
                return None
            keys[-1] = node
        else:
            keys[-1] = None
            if key.text in parent.entries:
                first = parent.lines[key.text]
                report(key.line, shown(key.text), f"is here twice, first in line {first}", "delete one")
            else:
                parent.entries[key.text] = node
                parent.lines[key.text] = key.line
        if not isinstance(node, Text):
            open_nodes.append(node)
            keys.append(None)
            if len(open_nodes) > MAX_DEPTH:
                report(
                    line, "yaml", f"nested deeper than {MAX_DEPTH} levels", "a policy needs no more than 5"
                )
                return None
    return root
