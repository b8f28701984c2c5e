"""A policy file read piece by piece: every complaint kept, every value's place remembered.

Owns how a tree from `document` is taken apart without stopping at the first mistake. Must not know which keys
a policy has.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from tuned_spec.errors import Problem
from tuned_spec.policy.document import Items, Node, Table, Text, shown
from tuned_spec.policy.units import Misfit

MAX_PROBLEMS = 100  # of one file: the rest is most likely the same mistake

T = TypeVar("T")


def near(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word[:80], list(words), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


class Reader:
    """`file`: the one spoken of now. `places`, `texts`: dotted key -> where and how it was last written."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.places: dict[str, tuple[str, int]] = {}
        self.texts: dict[str, str] = {}
        self.file = ""
        self.said: Counter[str] = Counter()  # problems by file

    def problem(self, line: int, key: str, what: str, hint: str = "") -> None:
        """Something is wrong in `self.file`."""
        self.said[self.file] += 1
        if self.said[self.file] < MAX_PROBLEMS:
            self.problems.append(Problem(self.file, line, key, what, hint))
        elif self.said[self.file] == MAX_PROBLEMS:
            self.problems.append(Problem(self.file, line, key, "and more", "correct the others first"))

    def place(self, key: str, line: int, text: str) -> None:
        self.places[key] = (self.file, line)
        self.texts[key] = text

    def forget(self, prefix: str) -> None:
        for key in [key for key in self.places if key.startswith(prefix)]:
            del self.places[key], self.texts[key]

    def close(self, word: str, words: Iterable[str]) -> str:
        return near(word, words) if self.said[self.file] < MAX_PROBLEMS else ""

    def table(self, node: Node, key: str) -> Table | None:
        if isinstance(node, Table):
            return node
        self.problem(node.line, key, "is not a mapping", "write `key: value` lines below it")
        return None

    def items(self, node: Node, key: str) -> list[Node]:
        if isinstance(node, Items):
            return node.items
        self.problem(node.line, key, "is not a list", "write one `- ` line for each entry")
        return []

    def text(self, node: Node, key: str) -> str | None:
        """The value on one line, blanks folded, fit to be printed anywhere."""
        text = " ".join(node.text.split()) if isinstance(node, Text) else ""
        if text and text.isprintable():
            return text
        what = "is not one value" if not isinstance(node, Text) else "has no value"
        if text:
            what = "has a control character in it"
        self.problem(node.line, key, what, "write it on this line, or delete the key")
        return None

    def known(self, table: Table, prefix: str, keys: Sequence[str]) -> dict[str, Node]:
        for key in table.entries:
            if key not in keys:
                hint = self.close(key, keys) or f"keys here: {', '.join(keys)}"
                self.problem(table.lines[key], f"{prefix}{shown(key)[1:-1]}", "unknown key", hint)
        return {key: table.entries[key] for key in keys if key in table.entries}

    def one(self, parts: Mapping[str, Node], key: str, name: str, read: Callable[[str], T]) -> T | None:
        """`parts[name]` understood by `read`; None if it is not there or is wrong (then it has been said)."""
        if name not in parts or (text := self.text(parts[name], f"{key}.{name}")) is None:
            return None
        return self.understood(parts[name].line, f"{key}.{name}", text, lambda: read(text))

    def many(self, parts: Mapping[str, Node], key: str, name: str, read: Callable[[str], T]) -> dict[str, T]:
        """`name[0]`, `name[1]` ... -> the entries of a list that `read` understood."""
        if name not in parts:
            return {}
        items = self.items(parts[name], f"{key}.{name}")
        if not items and isinstance(parts[name], Items):
            hint = "write one `- ` line for each entry"
            self.problem(parts[name].line, f"{key}.{name}", "is an empty list", hint)
        numbered = {f"{name}[{number}]": item for number, item in enumerate(items)}
        found = {label: self.one(numbered, key, label, read) for label in numbered}
        return {label: item for label, item in found.items() if item is not None}

    def understood(self, line: int, key: str, text: str, read: Callable[[], T]) -> T | None:
        self.place(key, line, text)
        try:
            return read()
        except Misfit as error:
            self.problem(line, key, error.what, error.hint)
            return None
