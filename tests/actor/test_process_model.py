"""The real process with an actor.yaml, over a real socket pair, asking a model over real HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.actor.asking import KEY, PROTOCOLS
from tests.actor.cases import KNOB, answer, case
from tests.actor.test_process import Peer
from tuned_spec.model import (
    Allowed,
    Arm,
    Cancel,
    Consulted,
    Expect,
    FromActor,
    Hello,
    Measure,
    Option,
    Outlook,
    Suggestion,
    Verdict,
    VerdictKind,
    Way,
    Write,
)
from workloads.endpoint import MODEL, Behave, Endpoint, Fail, Hang, Say

both = pytest.mark.parametrize("protocol", PROTOCOLS)

# The actor with a judge that only asks: what it was told is its reason. Whatever it imports after the drop is
# told as well.
ASKING = """
import os, sys
from dataclasses import replace
from tuned_spec.actor import __main__ as actor
from tuned_spec.actor.flow import Consult, Said
from tuned_spec.model import Verdict, VerdictKind

def judge(case):
    reply = yield Consult("", (Said("user", case.id),), {"type": "object"}, 50)
    return Verdict(case.id, VerdictKind.REJECT, reply.text or "error: " + reply.error)

wits_of = actor.wits_of

def asking(*given):
    wits = replace(wits_of(*given), judge=judge)
    sys.addaudithook(lambda event, about: event == "import" and print("imports", about[0], file=sys.stderr))
    return wits

actor.wits_of = asking
raise SystemExit(actor.main())
"""


def configuration(place: Path, endpoint: Endpoint, protocol: str, more: str = "") -> Path:
    key = place / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    file = place / "actor.yaml"
    file.write_text(
        f"version: 1\nmodel: {{provider: {protocol}, endpoint: '{endpoint.url(protocol)}', name: {MODEL},"
        f" key_file: {key}, timeout: 2s}}\n{more}"
    )
    return file


@contextmanager
def started(*words: str, program: tuple[str, ...] = ("-m", "tuned_spec.actor")) -> Iterator[Peer]:
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    command = [sys.executable, *program, "--fd", str(theirs.fileno()), "--seed", "7", *words]
    with theirs:
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)
    with ours, process:
        try:
            yield Peer(process, ours)
        finally:
            process.kill()


@contextmanager
def asking(place: Path, endpoint: Endpoint, protocol: str = "openai", more: str = "") -> Iterator[Peer]:
    file = configuration(place, endpoint, protocol, more)
    words = ("--config", str(file), "--state-dir", str(place))
    with started(*words, program=("-c", ASKING)) as actor:
        yield actor


def always(said: Say | Hang | Fail) -> Behave:
    return lambda asked: said


def reason(actor: Peer) -> str:
    message = actor.next()
    assert isinstance(message, Verdict), message
    return message.reason


def status(actor: Peer) -> dict[str, str]:
    lines = Path(f"/proc/{actor.process.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@both
def test_it_says_who_judges_and_how_long_that_may_take(tmp_path: Path, protocol: str) -> None:
    with Endpoint(always(Say("ok"))) as endpoint:
        file = configuration(tmp_path, endpoint, protocol, "review: {time: 45s}\n")
        with started("--config", str(file), "--state-dir", str(tmp_path)) as actor:
            uid = 65534 if os.geteuid() == 0 else os.geteuid()
            expected = Hello(f"model {MODEL} and trial", actor.process.pid, uid, 45.0)
            assert actor.next() == expected
            assert status(actor)["Threads"] == "1"
            actor.send(case())
            actor.measure()  # the trial goes first
    assert endpoint.asked == []  # and nobody was asked anything on the way


@both
def test_it_asks_after_the_drop_with_all_it_needs_in_memory(tmp_path: Path, protocol: str) -> None:
    with Endpoint(always(Say("kept")), key=KEY) as endpoint, asking(tmp_path, endpoint, protocol) as actor:
        actor.next()
        actor.send(case(id="a"))
        assert reason(actor) == "kept"
        endpoint.behave = always(Fail(500, "oops"))
        actor.send(case(id="b"))
        assert reason(actor) == "error: the endpoint has trouble (500): oops"
        assert status(actor)["NoNewPrivs"] == "1"
        actor.door.shutdown(socket.SHUT_WR)
        assert actor.end() == (0, "")  # nor was anything imported


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_its_memory_is_closed_to_others_of_its_user(tmp_path: Path) -> None:
    look = (
        "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: open(f'/proc/{sys.argv[1]}/mem', 'rb'); print('open')\n"
        "except PermissionError: print('closed')"
    )
    with Endpoint(always(Say("ok"))) as endpoint, asking(tmp_path, endpoint) as actor:
        actor.next()
        words = [sys.executable, "-c", look, str(actor.process.pid)]
        assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "closed\n"


@both
@pytest.mark.parametrize(("word", "kind"), [("confirm", VerdictKind.CONFIRM), ("reject", VerdictKind.REJECT)])
def test_a_review_is_the_trials_and_then_the_models(
    tmp_path: Path, protocol: str, word: str, kind: VerdictKind
) -> None:
    reply = {"knobs": {KNOB.id: {"verdict": word}}, "reason": "as I see it", "confidence": 0.9}
    with Endpoint(always(Say(json.dumps(reply))), key=KEY) as endpoint:
        file = configuration(tmp_path, endpoint, protocol)
        with started("--config", str(file), "--state-dir", str(tmp_path)) as actor:
            actor.next()
            actor.send(case(review_s=6.0))
            told: list[FromActor] = []
            while not told or not isinstance(told[-1], Verdict):
                told.append(actor.next())
                if isinstance(measure := told[-1], Measure):
                    value = 10.0 if measure.arm is Arm.A else 5.0
                    actor.send(answer(measure, {"app.p95_ms": (value, value * 1.02, value * 0.98)}))
    *_, consulted, verdict = told
    assert isinstance(verdict, Verdict)
    assert verdict.kind is kind
    assert "model" in verdict.by
    assert isinstance(consulted, Consulted)
    assert consulted.tokens_in == endpoint.asked[0].tokens > 100
    assert len(endpoint.asked) == 1
    assert KEY not in repr(told)


def test_a_model_that_is_silent_leaves_no_verdict(tmp_path: Path) -> None:
    with Endpoint(always(Fail(401, "no"))) as endpoint:
        file = configuration(tmp_path, endpoint, "openai")
        with started("--config", str(file), "--state-dir", str(tmp_path)) as actor:
            actor.next()
            actor.send(case(review_s=6.0))
            while isinstance(message := actor.next(), Measure):
                value = 10.0 if message.arm is Arm.A else 5.0
                actor.send(answer(message, {"app.p95_ms": (value, value * 1.02, value * 0.98)}))
            assert isinstance(message, Consulted)
            assert "the key is refused" in message.outcome
            actor.send(case(id="next"))
            assert actor.measure().case == "next"
            actor.door.shutdown(socket.SHUT_WR)
            assert "case t1 is not answered: the model: the key is refused" in actor.end()[1]


@both
def test_a_speculator_answers_an_outlook(tmp_path: Path, protocol: str) -> None:
    wish = {
        "writes": [{"knob": KNOB.id, "value": 500}],
        "metric": "app.p95_ms",
        "reason": "x",
        "confidence": 0.6,
    }
    with Endpoint(always(Say(json.dumps(wish)))) as endpoint:
        file = configuration(tmp_path, endpoint, protocol)
        file.write_text(file.read_text().replace("model:", "speculator:"))
        with started("--config", str(file), "--state-dir", str(tmp_path)) as actor:
            hello = actor.next()
            assert isinstance(hello, Hello)
            assert (hello.kind, hello.speculates, hello.review_s) == ("trial", True, 0.0)
            option = Option(KNOB, 3000, Allowed(KNOB.id, 100, 10_000))
            expect = Expect("app.p95_ms", Way.DOWN)
            actor.send(Outlook("o1", {}, {}, {"app.p95_ms": (10.0, 11.0)}, (option,), (expect,)))
            assert isinstance(actor.next(), Consulted)
            suggestion = actor.next()
            assert isinstance(suggestion, Suggestion)
            assert (suggestion.outlook, suggestion.writes) == ("o1", (Write(KNOB.id, 500),))
            actor.send(case())
            actor.measure()  # the trial alone judges


def test_what_was_spent_outlives_it(tmp_path: Path) -> None:
    """Killed within a call, again and again, as in a crash loop."""
    budget = "budget: {tokens_a_day: 150}\n"
    with Endpoint(always(Hang())) as endpoint:
        for n in range(2):
            with asking(tmp_path, endpoint, more=budget) as actor:
                actor.next()
                actor.send(case(id=f"c{n}"))
                while len(endpoint.asked) <= n:
                    time.sleep(0.005)
                os.kill(actor.process.pid, signal.SIGKILL)
        with asking(tmp_path, endpoint, more=budget) as actor:
            actor.next()
            actor.send(case(id="c2"))
            assert "budget.tokens_a_day is spent" in reason(actor)
    assert len(endpoint.asked) == 2


def test_a_damaged_record_is_named_and_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "spent.0").write_text("rubbish\n")
    with (
        Endpoint(always(Say("ok"))) as endpoint,
        asking(tmp_path, endpoint, more="budget: {tokens_a_day: 1000}\n") as actor,
    ):
        actor.next()
        actor.send(case())
        assert reason(actor) == "ok"
        actor.door.shutdown(socket.SHUT_WR)
        code, complaint = actor.end()
    assert code == 0
    assert complaint.startswith(f"tuned-spec-actor: {tmp_path}/spent.0:1: damaged")


def test_a_cancelled_case_leaves_the_others_alone(tmp_path: Path) -> None:
    def behave(asked: object) -> Say | Hang:
        return Hang() if not endpoint.asked[1:] else Say("ok")

    with Endpoint(behave) as endpoint, asking(tmp_path, endpoint) as actor:
        actor.next()
        actor.send(case(id="over"))
        while not endpoint.asked:
            time.sleep(0.005)
        actor.send(Cancel("over", "lease ended"), case(id="next"))
        verdict = actor.next()
        assert isinstance(verdict, Verdict)
        assert (verdict.case, verdict.reason) == ("next", "ok")


def test_the_door_shut_in_a_question_ends_it_at_once(tmp_path: Path) -> None:
    with (
        Endpoint(always(Hang())) as endpoint,
        asking(tmp_path, endpoint) as actor,
    ):
        actor.next()
        actor.send(case())
        while not endpoint.asked:
            time.sleep(0.005)
        actor.door.close()
        assert actor.end()[0] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 1\nmodel: {}\nfoo: 1\n", ["model.provider", "model.endpoint", "model.name", "foo"]),
        ("", ["is empty"]),
        ("version: 1\nmodel: {provider: openai, endpoint: 'http://x', name: m, key_file: /no}", ["key_file"]),
    ],
)
def test_a_configuration_that_cannot_be_used_ends_it_with_all_its_errors(
    tmp_path: Path, text: str, said: list[str]
) -> None:
    file = tmp_path / "actor.yaml"
    file.write_text(text)
    with started("--config", str(file), "--state-dir", str(tmp_path)) as actor:
        code, complaint = actor.end()
    assert code == 2
    for words in said:
        assert words in complaint
    assert all(line.startswith(f"tuned-spec-actor: {file}:") for line in complaint.splitlines())


def test_a_ca_file_of_no_use_ends_it_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with Endpoint(always(Say("ok"))) as endpoint:
        file = configuration(tmp_path, endpoint, "openai")
    file.write_text(file.read_text().replace("timeout:", f"ca_file: {tmp_path}/ca.pem, timeout:"))
    with started("--config", str(file), "--state-dir", str(tmp_path)) as actor:
        code, complaint = actor.end()
    assert code == 2
    assert "ca_file" in complaint
    assert "Traceback" not in complaint


def test_a_key_that_went_missing_since_ends_it_with_a_line(tmp_path: Path) -> None:
    with Endpoint(always(Say("ok"))) as endpoint:
        file = configuration(tmp_path, endpoint, "openai")
    (tmp_path / "key").unlink()
    with started("--config", str(file), "--state-dir", str(tmp_path)) as actor:
        code, complaint = actor.end()
    assert (code, complaint.count("\n")) == (2, 1)
    assert "model.key_file" in complaint


def test_without_a_model_in_its_file_the_trial_judges(tmp_path: Path) -> None:
    file = tmp_path / "actor.yaml"
    file.write_text("version: 1\n")
    with started("--config", str(file), "--state-dir", str(tmp_path)) as actor:
        hello = actor.next()
        assert isinstance(hello, Hello)
        assert (hello.kind, hello.review_s) == ("trial", 0.0)
        actor.send(case())
        question = actor.measure()
        assert isinstance(question, Measure)
        actor.send(answer(question, {"app.p95_ms": (1.0,)}))
        assert actor.measure().arm in Arm
    assert not list(tmp_path.glob("spent*"))
