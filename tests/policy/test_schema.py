"""The schema that editors check policies with: true to the loader, and to what is shipped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.policy.test_load import RULE
from tuned_spec.paths import shipped_policies
from tuned_spec.policy import schema

SHIPPED = sorted(path.stem for path in shipped_policies().glob("*.yaml"))


def complaints(value: Any, wanted: schema.Schema, at: str = "") -> list[str]:
    """As much of JSON Schema as ours uses."""
    types: dict[str, tuple[type, ...]] = {
        "object": (dict,),
        "array": (list,),
        "string": (str,),
        "integer": (int,),
        "number": (int, float),
    }
    if "const" in wanted and value != wanted["const"]:
        return [f"{at}: not {wanted['const']}"]
    if "enum" in wanted and value not in wanted["enum"]:
        return [f"{at}: not among {wanted['enum']}"]
    if "anyOf" in wanted:
        ways = [complaints(value, way, at) for way in wanted["anyOf"]]
        return [] if [] in ways else ways[-1]
    names = wanted.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(isinstance(value, types[name]) for name in names):
        return [f"{at}: not {names}"]
    found = []
    if isinstance(value, str):
        if not re.search(wanted.get("pattern", ""), value) or len(value) < wanted.get("minLength", 0):
            found.append(f"{at}: {value!r} does not match")
    elif isinstance(value, list):
        if not wanted.get("minItems", 0) <= len(value) <= wanted.get("maxItems", len(value)):
            found.append(f"{at}: {len(value)} items")
        for number, item in enumerate(value):
            found += complaints(item, wanted["items"], f"{at}[{number}]")
    elif isinstance(value, dict):
        found += [f"{at}: no {key}" for key in wanted.get("required", []) if key not in value]
        for key, item in value.items():
            inner = wanted.get("properties", {}).get(key) or next(
                (s for p, s in wanted.get("patternProperties", {}).items() if re.search(p, key)), None
            )
            found += [f"{at}: unknown {key}"] if inner is None else complaints(item, inner, f"{at}.{key}")
    return found


def test_the_schema_on_disk_is_the_one_the_loader_reads_by() -> None:
    path = shipped_policies() / "schema.json"
    assert path.read_text() == schema.text(), f"renew it: python -m tuned_spec.policy.schema > {path}"


@pytest.mark.parametrize("text", [RULE, *(shipped_policies() / f"{name}.yaml" for name in SHIPPED)], ids=str)
def test_good_policies_pass_the_schema(text: str | Path) -> None:
    document = yaml.safe_load(text if isinstance(text, str) else text.read_text())
    assert complaints(document, schema.schema()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mode: lossy", "mode: fast"),
        ("version: 1", "version: 2"),
        ("expect: app", "expcet: app"),
        ("multiply 2", "double"),
        ("falls by 10%", "falls 10%"),
        (" clear 0", ""),
        ("may rise 5%", "rises 5%"),
        ("app.p95_ms: {", "p95_ms: {"),
        ("range: [128, 32768]", "range: [128]"),
        ("for 2s", "for ever"),
    ],
)
def test_bad_policies_do_not(old: str, new: str) -> None:
    assert old in RULE
    assert complaints(yaml.safe_load(RULE.replace(old, new)), schema.schema())
