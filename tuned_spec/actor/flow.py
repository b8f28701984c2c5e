"""What a judge may ask for and is answered with: the effects of the actor's I/O-free flows.

A flow is a generator: it yields an effect, is sent the answer, and returns its one result. Measure and Probe
travel to the daemon, Consult to a model over HTTP, a report is only sent; the driver (`serve`) carries them,
so that a flow can be run in a test with answers made up. Knows no socket, no clock and no endpoint.
"""

from __future__ import annotations

from collections.abc import Generator

from tuned_spec.model import Consulted, Frozen, Measure, Measurement, Probe, ProbeAnswer, Suggestion, Verdict


class Silence(Exception):
    """A flow ends without a verdict, and why: nothing is answered, so that the lease ends the change."""


class Said(Frozen, frozen=True):
    """One turn of a conversation with a model. `role` is "user" or "assistant"."""

    role: str
    text: str


class Consult(Frozen, frozen=True):
    """Ask the configured model. `schema`: JSON schema of the reply, for endpoints that can enforce one."""

    system: str
    said: tuple[Said, ...]
    schema: dict[str, object]
    most_tokens: int = 1024  # of the reply


class Reply(Frozen, frozen=True):
    """What came of a Consult: text, or `error` in words.

    `again`: the same question may do better (429, 500, a hang); not if the budget is spent, the key is wrong
    or the model refused. Tokens are the endpoint's count, an estimate from the bytes where it gives none;
    `cost` by the configured prices; `seconds` with all its tries.
    """

    text: str = ""
    error: str = ""
    again: bool = False
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0


Asked = Measure | Probe | Consult | Consulted
Answer = Measurement | ProbeAnswer | Reply | None
Review = Generator[Asked, Answer, Verdict]
Suggesting = Generator[Asked, Answer, Suggestion]
