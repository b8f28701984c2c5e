"""docs/policies.md tells what the files say."""

from __future__ import annotations

from pathlib import Path

from tests.policy.test_shipped import SHIPPED
from tuned_spec.knobs.caps import FACTS
from tuned_spec.knobs.facts import host_facts
from tuned_spec.policy import page

DOC = (Path(__file__).parents[2] / "docs/policies.md").read_text()


def test_the_last_part_is_as_it_is_made() -> None:
    assert DOC.endswith(page.page()), "python -m tuned_spec.policy.page prints it anew"


def test_every_policy_and_every_fact_of_a_host_is_told() -> None:
    head = DOC.partition(page.MARK)[0]
    assert all(f"### {name}\n" in DOC for name in SHIPPED)
    assert set(host_facts()) <= FACTS.keys()
    assert all(f"`{fact}`" in head for fact in host_facts())
