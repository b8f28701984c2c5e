"""A model behind the scripted endpoint, over real HTTP on the loopback."""

from __future__ import annotations

from tuned_spec.actor.budget import Purse
from tuned_spec.actor.config import ModelConfig
from tuned_spec.actor.flow import Consult, Said
from tuned_spec.actor.models import Model
from workloads.endpoint import MODEL, Endpoint

KEY = "sk-0123456789abcdef"
PROTOCOLS = ("openai", "anthropic")
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["confirm", "reject"]}, "why": {"type": "string"}},
    "required": ["verdict", "why"],
    "additionalProperties": False,
}
QUESTION = Consult("You judge changes.", (Said("user", "Is it good?"),), SCHEMA, 100)


def configured(endpoint: Endpoint, protocol: str, /, **changes: object) -> ModelConfig:
    given: dict[str, object] = {
        "provider": protocol,
        "endpoint": endpoint.url(protocol),
        "name": MODEL,
        "timeout_s": 2.0,
        **changes,
    }
    return ModelConfig(**given)  # type: ignore[arg-type]


def model(endpoint: Endpoint, protocol: str, purse: Purse | None = None, /, **changes: object) -> Model:
    return Model(configured(endpoint, protocol, **changes), KEY, purse)
