"""A model's advice from its reply to the owner's screen: a real daemon, actor, endpoint and kernel."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.daemon.host import FILE, KNOB, host, until
from tests.daemon.obedient import Obedient
from tests.daemon.test_injection import FOUND, HELPS, Scene
from tests.daemon.test_serve import value
from workloads.endpoint import MODEL, Answer, Asked, Endpoint, Say, in_turn

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason=f"{KNOB}: writes a real knob: needs root"),
]

REST = {"type": "rest_rule", "rule": "guess", "for_s": 3600, "reason": "not for this load"}
NARROW = {"type": "narrow", "knob": KNOB, "low": 1, "high": 2, "for_s": 60, "reason": ""}


class Adviser(Obedient):
    """It looks once, then takes the change back and would have the rule rest."""

    def __call__(self, asked: Asked) -> Answer:
        if len(asked.said) == 1:
            return Say(json.dumps({"probes": ["memory"]}))
        word = {"knobs": {KNOB: {"verdict": "reject"}}, "reason": "too little", "confidence": 0.9}
        return Say(json.dumps({**word, "strategy": [REST, NARROW]}))


def test_advice_is_taken_shown_and_dropped_and_its_review_is_judged_again(tmp_path: Path) -> None:
    model = Adviser(KNOB)
    with host(tmp_path, settle="50ms", lease="60s") as machine, Endpoint(model) as endpoint:
        FILE.write_text(str(FOUND))
        scene = Scene(machine, endpoint, model, "both")
        machine.policy.write_text(machine.policy.read_text().replace("cooldown: 10m", "cooldown: 1s"))
        with scene.running(HELPS):
            scene.wait()
            until(lambda: "advised" in machine.kinds(), f"no advice on record:\n{machine.said()}")
            data = machine.entry("advised").data
            assert [one["what"] for one in data["taken"]] == ["let guess rest"]  # type: ignore[attr-defined]
            assert "no search of the policy moves it" in str(data["not_taken"])

            def held_back() -> bool:
                codes = [e.data["code"] for e in machine.history() if e.kind == "refused"]
                return "advised" in codes

            until(held_back, f"it was not held back:\n{machine.said()}", 60.0)
            assert value() == FOUND
            (row,) = machine.status()["status"]["advice"]
            assert row["what"] == "let guess rest" and row["knobs"] == [KNOB] and 3000 < row["left_s"] <= 3600
            shown = " ".join(machine.command("status").stdout.split())
            assert (
                "advice in force" in shown and "not for this load" in shown and "models were asked" in shown
            )
            why = " ".join(machine.command("why", KNOB).stdout.split())
            assert "advice let guess rest, for" in why
            assert f"reviewed reject (0.90): too little; {MODEL}: reject (0.90);" in why and "1 probe" in why
            assert "let guess rest until" in machine.command("history").stdout
            whole = machine.command("why", KNOB, "--full").stdout
            assert '| {"probes": ["memory"]}' in whole and f"{KNOB}: 0 to 4 allowed" in whole

            count = machine.kinds().count("proposed")
            done = machine.command("resume", "--advice")
            assert "what verdicts advised is dropped" in done.stdout
            assert machine.status()["status"]["advice"] == []
            until(lambda: machine.kinds().count("proposed") > count, "the rule is not free", 60.0)
        machine.stop()
        assert value() == FOUND

        word = {"knobs": {KNOB: {"verdict": "overwrite", "value": 3}}, "reason": "a bit", "confidence": 0.5}
        with Endpoint(in_turn(Say(json.dumps({"probes": ["memory"]})), Say(json.dumps(word)))) as other:
            flags = ("--endpoint", other.url(), "--provider", "openai", "--model", MODEL)
            trial = machine.entry("advised").trial
            document = json.loads(
                machine.command("actor", "replay", *flags, "--trial", trial, "--json").stdout
            )
        (row,) = document["replayed"]
        assert (row["recorded"]["kind"], row["now"]["kind"], row["agrees"]) == ("reject", "overwrite", False)
        assert row["evidence"] == "confirm" and row["same_instructions"] and row["not_recorded"] == 0
        then, now = (one.asked[1].said[2] for one in (endpoint, other))
        assert then.splitlines()[1] == now.splitlines()[1], "the same answer to the probe"
        assert endpoint.asked[0].said == other.asked[0].said
        assert value() == FOUND
