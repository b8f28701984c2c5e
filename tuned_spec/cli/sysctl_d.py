"""Which configuration file sets a sysctl at boot, by the rules of sysctl.d(5).

Owns the search order, masking, the two spellings of a key, globs and exclusions. Reads only. Facts from
sysctl.d(5) and sysctl(8): files of all directories are taken in the order of their names, a name in an
earlier directory hides the same name in later ones, the last setting of a key wins, an explicit key wins
over a glob, `-` before a key ignores errors (and, without a value, takes the key out of globs), and
procps reads /etc/sysctl.conf after all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from tuned_spec.model import Frozen, Knob

# Highest precedence first.
DIRECTORIES = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d")
LAST = "etc/sysctl.conf"


class Setting(Frozen, frozen=True):
    """One line of one file. `key` is a path below /proc/sys, perhaps a glob; `text` None excludes it."""

    file: str
    line: int
    key: str
    text: str | None


class Owners:
    """All settings of a host, read once."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.settings = [setting for path in _files(root) for setting in _settings(path)]

    def of(self, knob: Knob) -> Setting | None:
        """The setting that counts for this knob, or None if no file sets it."""
        if knob.adapter != "sysctl":
            return None
        explicit = [s for s in self.settings if s.key == knob.target]
        if explicit:
            return explicit[-1] if explicit[-1].text is not None else None
        globs = [s for s in self.settings if s.text is not None and _matches(knob.target, s.key)]
        return globs[-1] if globs else None


def _files(root: Path) -> list[Path]:
    """The files that count, in the order in which they are applied."""
    by_name: dict[str, Path] = {}
    for directory in DIRECTORIES:
        try:
            names = sorted((root / directory).glob("*.conf"))
        except OSError:
            continue
        for path in names:
            by_name.setdefault(path.name, path)
    # A link to /dev/null masks its name; sysctl.conf is often linked into sysctl.d as well.
    ordered = [path for _, path in sorted(by_name.items()) if path.resolve() != Path("/dev/null")]
    return [*ordered, root / LAST]


def _settings(path: Path) -> Iterator[Setting]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        key, equals, value = line.partition("=")
        key = key.strip()
        if not equals and not key.startswith("-"):
            continue
        yield Setting(str(path), number, _as_path(key.removeprefix("-")), value.strip() if equals else None)


def _as_path(key: str) -> str:
    """`net.ipv4.conf.eth0/1.x` and `net/ipv4/conf/eth0.1/x` both name net/ipv4/conf/eth0.1/x."""
    first = next((c for c in key if c in "./"), "/")
    return key if first == "/" else key.translate(str.maketrans("./", "/."))


def _matches(target: str, glob: str) -> bool:
    ours, theirs = target.split("/"), glob.split("/")
    return len(ours) == len(theirs) and all(map(fnmatchcase, ours, theirs))
