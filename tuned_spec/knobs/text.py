"""A knob's value and the text that the kernel shows or takes for it. Pure: knows `Knob.type`, not the host.

int     `4096`, `0x0007`, or `max_word` bool    `0`, `1`, `N`, `Y`, `false`, `true`
ints    `4096<TAB>131072<TAB>6291456`   choice  `always [madvise] never`, or one bare word
words   `reno bbr`                      cpus    `0-3,5`, or a hexadecimal mask (cpumask)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import assert_never

from ..model import UNLIMITED, Knob, KnobType, Value


def parse(knob: Knob, text: str) -> Value:
    """The canonical value of a text the kernel shows, or of one to write. ValueError says what is wrong.

    Ranges and choices are not asked: the live value of a newer kernel may lie outside the
    catalogue and must still be read, and put back.
    """
    if knob.type is not KnobType.CHOICE:  # of which the chosen word may stand in round brackets
        text = text.partition("(")[0]  # remarks of reach.unit
    words = text.split()
    match knob.type:
        case KnobType.INT:
            if len(words) != 1:
                raise ValueError(f"{knob.id}: {text!r} is not one number")
            return _number(knob, words[0])
        case KnobType.INTS:
            if len(words) != len(knob.fields):
                raise ValueError(
                    f"{knob.id}: {text!r} has {len(words)} numbers, not {len(knob.fields)}"
                    f" ({' '.join(knob.fields)})"
                )
            return tuple(_number(knob, word) for word in words)
        case KnobType.BOOL:
            if text.strip() not in _BOOLS:
                raise ValueError(f"{knob.id}: {text!r} is not one of {' '.join(_BOOLS)}")
            return _BOOLS[text.strip()]
        case KnobType.CHOICE:
            chosen = _BRACKETED.findall(text) or words
            if len(chosen) != 1:
                raise ValueError(f"{knob.id}: {text!r} does not show one chosen word")
            return str(chosen[0])
        case KnobType.WORDS:
            if not words:
                raise ValueError(f"{knob.id}: an empty list")
            return " ".join(words)
        case KnobType.CPUS:
            return _listed(_from_list(knob, text.strip()))
        case KnobType.CPUMASK:
            return _listed(_from_mask(knob, text.strip()))
        case _:
            assert_never(knob.type)


def format(knob: Knob, value: Value) -> str:
    """The text to write. ValueError for a value of the wrong shape.

    The shape must be whole, because the kernel is lax: of a triple it takes the numbers that
    come and keeps the rest, an empty text is a successful write of nothing.
    """
    match knob.type, value:
        case KnobType.BOOL, int() if value in (0, 1):
            return str(int(value))
        case KnobType.INT, int() if _is_int(value):
            return _shown(knob, value)
        case KnobType.INTS, tuple() if len(value) == len(knob.fields) and all(map(_is_int, value)):
            return " ".join(_shown(knob, number) for number in value)
        case KnobType.CHOICE, str() if len(value.split()) == 1 and not _BRACKETED.search(value):
            return value
        case KnobType.WORDS, str() if value.split():
            return " ".join(value.split())
        case KnobType.CPUS, str():
            return _listed(_from_list(knob, value))
        case KnobType.CPUMASK, str():
            return _mask(_from_list(knob, value))
    wanted = f"{len(knob.fields)} numbers" if knob.type is KnobType.INTS else f"of type {knob.type}"
    raise ValueError(f"{knob.id}: {value!r} is not {wanted}")


def canonical(knob: Knob, value: Value) -> Value:
    """What the kernel will show after `value` was written. ValueError as `format`."""
    shown = parse(knob, format(knob, value))
    if knob.stateless:
        return 0
    return shown - shown % knob.quantum if isinstance(shown, int) and shown != UNLIMITED else shown


# ---------------------------------------------------------------------------------- details

_BOOLS = {"0": 0, "1": 1, "N": 0, "Y": 1, "n": 0, "y": 1, "false": 0, "true": 1}
_BRACKETED = re.compile(r"[\[(]([^\[\]()\s]+)[\])]")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(knob: Knob, word: str) -> int:
    if knob.max_word and word == knob.max_word:
        return UNLIMITED
    if knob.unit.startswith("hex") and re.fullmatch(r"0x[0-9a-f]+", word):
        return int(word, 16)
    # int() alone would also take `1_000` and digits of other scripts
    if not re.fullmatch(r"-?[0-9]+", word):
        raise ValueError(f"{knob.id}: {word!r} is not a number")
    return int(word)


def _shown(knob: Knob, number: int) -> str:
    if knob.max_word and number == UNLIMITED:
        return knob.max_word
    if knob.unit.startswith("hex"):
        return f"0x{number:04x}"
    # Written as it will be shown: of these, some knobs refuse what they would have to round.
    return str(1 << (number - 1).bit_length() if knob.power_of_two and number > 0 else number)


def _from_list(knob: Knob, text: str) -> set[int]:
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part)
        if not match:
            raise ValueError(f"{knob.id}: {text!r} is not a list of CPUs like 0-3,5")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found


def _from_mask(knob: Knob, text: str) -> set[int]:
    """`00000000,0000000f`: hexadecimal, in groups of 32 from the highest."""
    if not re.fullmatch(r"[0-9a-fA-F]+(,[0-9a-fA-F]{1,8})*", text):
        raise ValueError(f"{knob.id}: {text!r} is not a mask of CPUs")
    groups = text.split(",")
    bits = int("".join([groups[0], *(group.rjust(8, "0") for group in groups[1:])]), 16)
    return {cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1}


def _mask(cpus: Iterable[int]) -> str:
    digits = f"{sum(1 << cpu for cpu in cpus):x}"
    head = len(digits) % 8
    groups = [digits[:head]] if head else []
    return ",".join([*groups, *(digits[at : at + 8] for at in range(head, len(digits), 8))])


def _listed(cpus: set[int]) -> str:
    parts: list[str] = []
    for first in sorted(cpu for cpu in cpus if cpu - 1 not in cpus):
        last = first
        while last + 1 in cpus:
            last += 1
        parts.append(str(first) if first == last else f"{first}-{last}")
    return ",".join(parts)
