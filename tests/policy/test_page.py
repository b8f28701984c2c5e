"""docs/policies.md tells what the files say."""

from __future__ import annotations

from pathlib import Path

from tests.policy.test_shipped import SHIPPED
from tuned_spec.knobs.caps import FACTS
from tuned_spec.knobs.facts import host_facts
from tuned_spec.policy import page
from tuned_spec.policy.schema import Schema, schema

DOC = (Path(__file__).parents[2] / "docs/policies.md").read_text()


def test_the_last_part_is_as_it_is_made() -> None:
    assert DOC.endswith(page.page()), "python -m tuned_spec.policy.page prints it anew"


def keys(part: Schema) -> set[str]:
    """Of the parts of a policy, as deep as they go; what stands for a name of its own is none."""
    named = part.get("properties", {})
    listed = [part["items"]] if "items" in part else []
    inner = [*named.values(), *part.get("patternProperties", {}).values(), *listed]
    return set(named).union(*(keys(one) for one in inner))


def test_every_key_is_told() -> None:
    told = DOC.partition("## All keys")[2].partition("\n## ")[0]
    assert {"changes_per_minute", "owner", "bound", "lease", "recheck"} <= keys(schema())
    assert {key for key in keys(schema()) if f"`{key}`" not in told} == set()


def test_every_policy_and_every_fact_of_a_host_is_told() -> None:
    head = DOC.partition(page.MARK)[0]
    assert all(f"### {name}\n" in DOC for name in SHIPPED)
    assert set(host_facts()) <= FACTS.keys()
    assert all(f"`{fact}`" in head for fact in host_facts())
