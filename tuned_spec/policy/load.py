"""Policy files -> one frozen `Policy`, with where each value came from; or every problem at once.

Owns which files count, and in what order. Must not know what stands in them (`merge` does), sysctl paths or
the host's state: catalogue, metric names and users are parameters.

Order: the files that were selected, then every drop-in in name order. A drop-in with the name of a shipped
policy *is* that policy: it replaces the shipped file whole, and counts only when that policy is selected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from tuned_spec.errors import PolicyError, Problem
from tuned_spec.knobs.caps import Facts
from tuned_spec.model import Knob, Policy
from tuned_spec.policy import approval, units
from tuned_spec.policy.document import shown
from tuned_spec.policy.merge import SETTINGS, TOP, Merge
from tuned_spec.policy.reader import near
from tuned_spec.policy.targets import NAME

BUILT_IN = "built in"


class Loaded(msgspec.Struct, frozen=True):
    """`origins`: dotted key -> file:line, or "built in"; `texts`: the same keys -> as it was written."""

    policy: Policy
    origins: dict[str, str]
    texts: dict[str, str]
    files: tuple[Path, ...]


def load(
    select: Sequence[str | Path],
    *,
    shipped: Path,
    dropins: Path | None,
    catalogue: Mapping[str, Knob],
    metrics: Callable[[str], bool],
    uid_of: Callable[[str], int],
    facts: Facts,
    sensed: Mapping[str, str] | None = None,
) -> Loaded:
    """The merged policy. A name brings the drop-ins along; a path is that file and nothing else.

    `uid_of` raises KeyError for an unknown user; `facts` are what a policy may compute with (knobs/facts.py);
    `sensed`: each metric's name -> what there is one of each of ("disk"; "": one in all).

    Raises PolicyError with all problems of all files.
    """
    problems: list[Problem] = []
    files = _files(select, shipped, dropins, problems)
    merge = Merge(catalogue, metrics, uid_of, sensed or {}, facts)
    merge.elsewhere = _rules_in(_policies(shipped, []).values())
    for path in files:
        merge.add(path)
    policy = merge.finish(tuple(path.stem for path in files))
    problems += merge.problems
    if problems:
        raise PolicyError(tuple(sorted(problems, key=lambda p: (p.file, p.line))))
    written = {key: (text, "{}:{}".format(*merge.places[key])) for key, text in merge.texts.items()}
    shown_as = sorted((_built_in() | written).items(), key=lambda item: TOP.index(item[0].partition(".")[0]))
    texts = {key: text for key, (text, _) in shown_as}
    return Loaded(policy, {key: origin for key, (_, origin) in shown_as}, texts, files)


def _built_in() -> dict[str, tuple[str, str]]:
    """What holds if no file says otherwise, written as a file would."""
    found = {"mode": (str(Policy(()).mode), BUILT_IN)}
    for name, (field, read, *_) in SETTINGS.items():
        value = getattr(Policy(()), field)
        if read is units.share:
            text = f"{100 * value:g}%"
        else:
            text = f"{value:g}s" if read is units.seconds else str(value)
        found[f"settings.{name}"] = (text, BUILT_IN)
    return found | {f"approval.{name}": (text, BUILT_IN) for name, text in approval.built_in().items()}


def _files(
    select: Sequence[str | Path], shipped: Path, dropins: Path | None, problems: list[Problem]
) -> tuple[Path, ...]:
    ours = _policies(shipped, problems)
    local = _policies(dropins, problems) if dropins else {}
    chosen: dict[Path, None] = {}
    for name in select:
        if isinstance(name, Path) or "/" in name or name.endswith((".yaml", ".yml")):
            chosen[Path(name)] = None
        elif name in local or name in ours:
            chosen[local.get(name) or ours[name]] = None
        else:
            hint = (
                near(name, [*ours, *local])
                or f"choose from {', '.join(sorted({*ours, *local})) or 'nothing'}"
            )
            problems.append(Problem("", 0, "policy", f"no policy {shown(name)}", hint))
    by_name = any(path in (*ours.values(), *local.values()) for path in chosen)
    extra = {path: None for name, path in local.items() if name not in ours and by_name}
    return tuple(chosen | extra)


def _rules_in(files: Iterable[Path]) -> frozenset[str]:
    """The ids of the rules in these files, as far as a glance tells: what a drop-in may `disable`."""
    found: set[str] = set()
    for path in files:
        try:
            if path.is_file():  # a pipe would be waited for
                found.update(re.findall(r"^\s*(?:- )?\s*id:\s*(\S+)", path.read_text(), re.MULTILINE))
        except (OSError, ValueError):
            pass  # whoever selects that file is told
    return frozenset(found)


def _policies(directory: Path, problems: list[Problem]) -> dict[str, Path]:
    try:
        names = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return {}
    except OSError as error:
        what = f"cannot be listed: {error.strerror}"
        problems.append(Problem(str(directory), 1, "directory", what, "check its mode"))
        return {}
    found = {}
    for name in names:
        if re.fullmatch(NAME + r"\.yaml", name):
            found[name.removesuffix(".yaml")] = directory / name
        elif name.endswith((".yaml", ".yml")) and not name.startswith("."):
            what, hint = (
                "is not read because of its name",
                "name it with letters, digits, - _ . and .yaml",
            )
            problems.append(Problem(str(directory / name), 1, "file", what, hint))
    return found
