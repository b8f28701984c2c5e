"""Text that others wrote, made fit for a prompt: quoted as data, cleaned, cut, secrets starred.

Owns what foreign text looks like to a model. What a process, cgroup, device or log line is called is
chosen by whoever runs on the host; such text stands only inside a block whose marker nobody could have
guessed, in JSON, and where it is part of a name (`task.nice@exe=...`) a number stands for it outside.
Knows no case and no model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from tuned_spec.probes.redact import plain, starred

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")


def clean(text: str, most: int) -> str:
    """One line of at most `most` characters, all of which can be seen."""
    text = starred(plain(text))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def lines(text: str, most: int) -> list[str]:
    """The same for a text of several lines, each of at most `most` characters."""
    # Twice, for a secret may be of several lines, or have in it what is not seen.
    return [clean(line, most) for line in starred(text).splitlines()]


def block(marker: str, data: object) -> str:
    """Data between marks. No text in it can end it: what `<` is in HTML is escaped in JSON."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"<data {marker}>\n{text}\n</data {marker}>"


class Names:
    """What is shown for the names of a case, so that no part that the host chose stands outside a block.

    `tcp.retrans_share` is shown as it is, `disk.util@vda` as `disk.util@#1`; `table` says what #1 is.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.table: dict[str, str] = {}
        self._shown: dict[str, str] = {}
        numbers: dict[str, str] = {}
        for name in names:
            head, at, instance = name.partition("@")
            if not _PLAIN.fullmatch(head):
                head, at, instance = "", "", name
            if instance or at:
                number = numbers.setdefault(instance, f"#{len(numbers) + 1}")
                self.table[number] = clean(instance, 160)
                head = f"{head}{at}{number}"
            self._shown[name] = head
        self._real = {shown: name for name, shown in self._shown.items()}
        # The longest first: one may be part of another. A group called `worse` is no reason to hide the word.
        telling = {i: n for i, n in numbers.items() if len(i) > 2 and not i.isalpha()}
        swaps = {**telling, **self._shown}
        self._swaps = sorted(((a, b) for a, b in swaps.items() if a != b), key=lambda pair: -len(pair[0]))
        self._instances = {number: instance for instance, number in numbers.items()}

    def show(self, name: str) -> str:
        return self._shown.get(name) or self.within(name, 80)

    def real(self, shown: str) -> str:
        """The name that is meant by what was shown; as it is where nothing was."""
        if shown in self._real:
            return self._real[shown]
        head, at, number = shown.rpartition("@")
        return f"{head}{at}{self._instances[number]}" if number in self._instances else shown

    def within(self, text: str, most: int) -> str:
        """A text of ours in which such names occur."""
        for name, shown in self._swaps:
            text = text.replace(name, shown)
        return clean(text, most)
