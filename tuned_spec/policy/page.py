"""The shipped policies as a page: `python -m tuned_spec.policy.page` prints the end of docs/policies.md.

Everything on it is as the files say it, whatever host this runs on.
"""

from __future__ import annotations

from pathlib import Path

from tuned_spec import paths
from tuned_spec.knobs.catalogue import load as load_catalogue
from tuned_spec.policy.load import Loaded, load
from tuned_spec.policy.replay import Paper
from tuned_spec.sense import metrics

MARK = "<!-- from here on made by `python -m tuned_spec.policy.page` -->"
FACTS = {"page": 4096.0, "ram": float(16 << 30), "cpus": 8.0}  # any: values are shown as they are written


def page() -> str:
    names = sorted(path.stem for path in paths.shipped_policies().glob("*.yaml"))
    found = {name: _loaded(name) for name in sorted(names, key=lambda name: (name != "default", name))}
    lines = [MARK, "", "## What each is for", "", "| policy | for | rules | searches | hears from programs |"]
    lines.append("|---|---|---|---|---|")
    for name, loaded in found.items():
        policy = loaded.policy
        told = ", ".join(f"`{metric.name}`" for metric in policy.metrics) or "-"
        counts = f"{len(policy.rules)} | {len(policy.climbs)}"
        lines.append(f"| [{name}](#{name}) | {_purpose(loaded.files[0])} | {counts} | {told} |")
    for name, loaded in found.items():
        lines += ["", f"### {name}", "", *_rules(loaded), *_climbs(loaded)]
    return "\n".join(lines) + "\n"


def _loaded(name: str) -> Loaded:
    return load(
        [name],
        shipped=paths.shipped_policies(),
        dropins=None,
        catalogue=Paper(load_catalogue(), FACTS),
        metrics=metrics.known,
        uid_of=lambda user: 0,
        facts=FACTS,
        sensed={metric: one.per for metric, one in metrics.METRICS.items()},
    )


def _purpose(path: Path) -> str:
    """The first sentence of the comment at the head of the file."""
    lines = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line[:1] == "#"]
    words = " ".join(line for line in lines if not line.startswith("yaml-language-server"))
    return words.strip().partition(". ")[0].rstrip(".").partition(": ")[0].removeprefix("For ")


def _rules(loaded: Loaded) -> list[str]:
    lines = ["| rule | when | does | expects | why | source |", "|---|---|---|---|---|---|"]
    for rule in loaded.policy.rules:
        texts = _texts(loaded, f"rules.{rule.id}.")
        when = "<br>".join(_code(text) for key, text in texts.items() if key.startswith("when["))
        does = "<br>".join(
            _code(f"{key.removeprefix('do.')}: {text}")
            for key, text in texts.items()
            if key.startswith("do.")
        )
        cells = [_code(rule.id), when, does, _code(texts["expect"]), rule.reason, rule.source]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _climbs(loaded: Loaded) -> list[str]:
    lines = ["", "| search | over | expects | why | source |", "|---|---|---|---|---|"]
    for climb in loaded.policy.climbs:
        texts = _texts(loaded, f"climbs.{climb.id}.")
        over = "<br>".join(
            _code(f"{key.removeprefix('over.')}: {text}")
            for key, text in texts.items()
            if key.startswith("over.")
        )
        cells = [_code(climb.id), over, _code(texts["expect"]), climb.reason, climb.source]
        lines.append(f"| {' | '.join(cells)} |")
    return lines if loaded.policy.climbs else []


def _texts(loaded: Loaded, prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): text for key, text in loaded.texts.items() if key.startswith(prefix)}


def _code(text: str) -> str:
    return f"`{text}`"


if __name__ == "__main__":
    print(page(), end="")
