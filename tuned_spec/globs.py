"""Names of one thing among many, `NAME@INSTANCE`, and globs over them: `disk.util@nvme*`, `@system.slice/*`.

Pure. The same words for knobs, metrics and rules.
"""

from __future__ import annotations

import functools
import re


def split(name: str) -> tuple[str, str]:
    """`disk.util@sda` -> (`disk.util`, `sda`); the instance is "" for a plain name."""
    base, _, instance = name.partition("@")
    return base, instance


def is_glob(instance: str) -> bool:
    return "*" in instance or "?" in instance


@functools.lru_cache(maxsize=256)
def _pattern(glob: str) -> re.Pattern[str]:
    words = {"**": ".+", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(words.get(word) or re.escape(word) for word in re.findall(r"\*\*|.", glob)))


def matches(glob: str, instance: str) -> bool:
    """`*` and `?` stop at a "/", `**` does not. Nothing else is special: names of cgroups hold brackets."""
    return _pattern(glob).fullmatch(instance) is not None


def leads_to(glob: str, path: str) -> bool:
    """Whether something below the cgroup `path` could match."""
    wanted, names = glob.split("/"), path.split("/") if path else []
    for word, name in zip(wanted, names, strict=False):
        if "**" in word:
            return True
        if not matches(word, name):
            return False
    return len(names) < len(wanted)
