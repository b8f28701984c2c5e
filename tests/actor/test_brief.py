"""What a model is told: how long it is, that it is all there, and that nothing foreign leaves its block."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import mistral_common
import pytest
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from tests.actor.pieces import Pieces
from tests.actor.reviews import examined, full_case, terms_of
from tests.policy.catalogue import FACTS
from tests.policy.test_shipped import SHIPPED, catalogue, shipped
from tuned_spec.actor import brief
from tuned_spec.model import Rule
from tuned_spec.policy.replay import Paper
from tuned_spec.speculate.climb import as_rule

LIMIT = 3000  # tokens: the owner's figure
VOCABULARIES = Path(mistral_common.__file__).parent / "data"


@cache
def tekken() -> Tekkenizer:
    return Tekkenizer.from_file(VOCABULARIES / "tekken_240911.json")


@cache
def pieces() -> Pieces:
    return Pieces(VOCABULARIES / "mistral_instruct_tokenizer_240323.model.v3")


def tokens(text: str) -> int:
    """By the vocabulary that takes more: 130,000 tokens of today, or 32,000 as small models have them."""
    return max(len(tekken().encode(text, bos=True, eos=False)), pieces().count(text))


def rules(policy: str) -> list[Rule]:
    loaded = shipped(policy).policy
    return [*loaded.rules, *(as_rule(climb) for climb in loaded.climbs)]


@pytest.mark.parametrize("policy", SHIPPED)
def test_one_change_takes_at_most_3000_tokens(policy: str) -> None:
    knobs = Paper(catalogue.load(), FACTS)
    sizes = {}
    for rule in rules(policy):
        case = full_case(rule, knobs)
        found = examined(case)
        text = brief.SYSTEM + brief.user(
            terms_of(case, names=brief.names_of(case, found.verdict)), found, "f" * 16
        )
        sizes[rule.id] = tokens(text)
    worst = max(sizes, key=lambda name: sizes[name])
    print(f"{policy}: {min(sizes.values())} to {sizes[worst]} tokens ({worst})")
    assert sizes[worst] <= LIMIT, sizes
