"""A model as speculator beside the real daemon and kernel: the actor is a program that answers an Outlook."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.host import FILE, KNOB, Host, host, until
from tests.daemon.stranger import ACTOR
from workloads.endpoint import MODEL, Asked, Endpoint, Say

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason=f"{KNOB} is written by root only"),
]
OTHER = 1 if int(FILE.read_text()) != 1 else 2
SECTION = (
    f"suggest:\n  knobs: [{KNOB}, vm.dirty_*_centisecs]\n  expect: [cpu.busy falls by 5%]\n  every: 10s\n"
)
SPECULATOR = ACTOR.replace("uid=65534)\n", "uid=65534, speculates=True)\n", 1) + (
    "while (asked := hear())['type'] != 'outlook': pass\n"
    "say(type='suggestion', outlook=OUTLOOK, writes=[dict(knob=KNOB, value=VALUE)], metric=METRIC,\n"
    "    reason='\\x1b[2Jbusy', confidence=0.9)\n"
    "while s.recv(65536): pass\n"
)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as found:
        found.policy.write_text(found.policy.read_text() + SECTION)
        yield found


def speculating(
    machine: Host,
    outlook: str = "asked['id']",
    knob: str = KNOB,
    value: object = OTHER,
    metric: str = "cpu.busy",
) -> None:
    said = {"OUTLOOK": outlook, "KNOB": repr(knob), "VALUE": repr(value), "METRIC": repr(metric)}
    program = SPECULATOR
    for word, text in said.items():
        program = program.replace(word, text)
    machine.start_with(sys.executable, "-c", program)


def test_what_it_proposes_is_tried_like_anything_else(machine: Host) -> None:
    before = FILE.read_text()
    speculating(machine)
    until(lambda: "applied" in machine.kinds(), f"nothing was tried:\n{machine.said()}")
    suggested, proposed = machine.entry("suggested"), machine.entry("proposed")
    assert suggested.data["writes"] == [{"knob": KNOB, "value": OTHER}]
    assert suggested.data["reason"] == "?[2Jbusy" == proposed.data["reason"], "its words are made harmless"
    assert proposed.rule == "outside.model" and proposed.data["confidence"] == 0.9
    assert machine.entry("applied").data["after"] == [{"knob": KNOB, "value": OTHER}]
    machine.stop()
    assert FILE.read_text() == before


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"knob": "vm.swappiness"}, "not_offered"),
        ({"knob": "/etc/passwd"}, "unknown_knob"),
        ({"value": 9}, "out_of_range"),
        ({"value": "reboot"}, "type"),
        ({"metric": "app.p95_ms"}, "not_offered"),
    ],
)
def test_what_it_may_not_is_refused(machine: Host, answer: dict[str, str], code: str) -> None:
    before = FILE.read_text()
    speculating(machine, **answer)
    until(lambda: "refused" in machine.kinds(), f"no answer was judged:\n{machine.said()}")
    assert machine.entry("refused").data["code"] == code
    assert "applied" not in machine.kinds() and FILE.read_text() == before


def test_a_real_model_s_word_comes_through_the_real_actor(machine: Host) -> None:
    """Daemon, actor, vendor's client, HTTP and back; `consulted` says what it took."""
    before = FILE.read_text()

    def propose(asked: Asked) -> Say:
        assert KNOB in asked.prompt and "cpu.busy" in asked.prompt
        wish = {"writes": [{"knob": KNOB, "value": OTHER}], "metric": "cpu.busy"}
        return Say(json.dumps({**wish, "reason": "the CPUs are busy", "confidence": 0.7}))

    with Endpoint(propose) as endpoint:
        config = machine.place / "actor.yaml"
        speculator = f"{{provider: openai, endpoint: {endpoint.url()!r}, name: {MODEL}, timeout: 10s}}"
        config.write_text(f"version: 1\nspeculator: {speculator}\n")
        machine.start("--actor", str(config))
        until(lambda: "applied" in machine.kinds(), f"nothing was tried:\n{machine.said()}", 60.0)
        assert endpoint.asked[0].schema is not None
    assert machine.entry("proposed").rule == "outside.model"
    assert machine.entry("suggested").data["reason"] == "the CPUs are busy"
    consulted = machine.entry("consulted").data
    assert consulted["model"] == MODEL
    assert consulted["tokens_in"] in {one.tokens for one in endpoint.asked}, "it may have been asked again"
    machine.stop()
    assert FILE.read_text() == before


def test_an_answer_to_another_question_is_none(machine: Host) -> None:
    speculating(machine, outlook="'o1'")
    until(lambda: "cpu.busy" in machine.status()["status"]["metrics"], "nothing is sensed")
    until(lambda: machine.status()["status"]["actor"]["alive"], "no actor")
    machine.command("propose", f"{KNOB}={OTHER}", "--expect", "cpu.busy", "--way", "down", "--reason", "x")
    until(lambda: "applied" in machine.kinds(), "the daemon hangs")
    assert "suggested" not in machine.kinds() and machine.entry("proposed").rule == "outside.cli"
