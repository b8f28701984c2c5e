"""Whatever an actor does to the door, the daemon's end of it stays upright."""

from __future__ import annotations

import math
import select
import sys

import pytest

from tuned_spec.daemon.actor_link import MOST_COUNTED, ActorLink
from tuned_spec.model import Cancel, Consulted, FromActor, Hello, Suggestion, Verdict

SAY = "import socket, sys; s = socket.socket(fileno=int(sys.argv[sys.argv.index('--fd') + 1]));"


def link(program: str) -> ActorLink:
    one = ActorLink(command=(sys.executable, "-c", SAY + program))
    one.start(0.0)
    return one


def hear(one: ActorLink, seconds: float = 10.0) -> str:
    """Listen until there is trouble; returns it."""
    assert one.sock is not None
    for _ in range(10_000):
        ready, _, _ = select.select([one.sock], [], [], seconds)
        assert ready, "it said nothing at all"
        messages, trouble = one.receive(1.0)
        for message in messages:
            trouble = trouble or (one.accept(message) if isinstance(message, Hello) else "")
        if trouble:
            return trouble
    raise AssertionError("no end to it")


HELLO = """
import json, os, struct
def say(**m):
    b = json.dumps(m).encode(); s.sendall(struct.pack('>I', len(b)) + b)
"""


@pytest.mark.parametrize(
    ("program", "trouble"),
    [
        ("s.send(b'\\xff' * 100)", "broke the protocol"),
        ("s.send(b'\\0\\0\\0\\4null')", "broke the protocol"),
        ("s.send(b'\\0\\0\\0\\2{}')", "broke the protocol"),
        ("pass", "closed the connection"),
        ("raise SystemExit(3)", "closed the connection"),
        (HELLO + "say(type='hello', kind='x', pid=1, uid=0)", "it is process 1"),
        (
            HELLO + "os.geteuid() or os.setuid(65534)\n"
            "for n in range(2): say(type='hello', kind='x', pid=os.getpid(), uid=1)",
            "hello twice",
        ),
        (
            HELLO + "\nfor n in range(100000): say(type='probe', case='x', seq=n, name='y')",
            "floods",
        ),
        (
            HELLO + "say(type='verdict', case='x', kind='confirm', reason='r', path='/etc/passwd')",
            "broke the protocol",
        ),
    ],
)
def test_a_bad_actor_is_given_up(program: str, trouble: str) -> None:
    one = link(program)
    try:
        assert trouble in hear(one)
    finally:
        one.give_up(2.0)
    assert one.start_at is not None and one.start_at > 2.0 and one.pid is None


def test_an_actor_that_reads_nothing_is_noticed() -> None:
    one = link("import time; time.sleep(60)")
    try:
        message = Cancel("x", "y" * 60_000)
        troubles = [one.tell(message) for _ in range(200)]
        assert troubles[-1] == "it reads nothing"
    finally:
        one.give_up(2.0)


def test_each_start_in_a_row_waits_longer_and_a_stable_one_wipes_that() -> None:
    one = link("pass")
    waits = []
    for _ in range(5):
        one.give_up(1.0)
        assert one.start_at is not None
        waits.append(one.start_at - 1.0)
        one.start(1.0)
    assert waits == sorted(waits) and waits[-1] > waits[0]
    one.give_up(1000.0)
    assert one.start_at == pytest.approx(1000.2)


def test_an_actors_words_cannot_drive_a_terminal() -> None:
    one = link(HELLO + "say(type='verdict', case='x', kind='reject', reason='\\x1b[2J' + 'y' * 5000)")
    try:
        assert one.sock is not None
        select.select([one.sock], [], [], 10.0)
        (verdict,), _ = one.receive(1.0)
        assert isinstance(verdict, Verdict)
        assert verdict.reason.isprintable() and len(verdict.reason) == 1000
    finally:
        one.give_up(2.0)


def test_what_it_says_of_its_models_is_plain_and_counts_within_reason() -> None:
    said = {
        "type": "consulted",
        "case": "x",
        "model": "m\x1b[2J",
        "system": "s\n",
        "prompt": "one\ntwo\x1b[2J",
        "exchange": ["a\rb"],
        "outcome": "o\x07",
        "tokens_in": -5,
        "tokens_out": 10**40,
        "cost": 1e308,
        "seconds": -1.0,
        "calls": -1,
    }
    claim = {"claim": "\x1b[2J", "effect": 1e308, "pairs": 10**400, "confidence": -1e308}
    verdict = {"type": "verdict", "case": "x", "kind": "confirm", "reason": "r", **claim}
    hint = {"type": "suggestion", "outlook": "x", "writes": [], "metric": "\x1b[2J", "reason": "r"}
    one = link(f"{HELLO}\nfor m in {[said, verdict, hint]!r}: say(**m)\ns.shutdown(1); s.recv(1)")
    found: list[FromActor] = []
    try:
        while len(found) < 3:
            assert one.sock is not None and select.select([one.sock], [], [], 10.0)[0]
            more, trouble = one.receive(1.0)
            assert not trouble
            found += more
    finally:
        one.give_up(2.0)
    consulted, judged, suggested = found
    assert isinstance(consulted, Consulted) and isinstance(judged, Verdict)
    assert isinstance(suggested, Suggestion)
    words = (consulted.model, consulted.system, consulted.outcome, judged.claim, suggested.metric)
    assert all(map(str.isprintable, words))
    assert consulted.prompt == "one\ntwo?[2J" and consulted.exchange == ("a?b",)
    assert (consulted.tokens_in, consulted.calls, consulted.seconds) == (0, 0, 0.0)
    assert max(consulted.tokens_out, consulted.cost) == MOST_COUNTED
    assert judged.effect is not None and math.isfinite(judged.effect + judged.effect)
    assert abs(judged.effect) <= MOST_COUNTED
    assert float(judged.pairs) == MOST_COUNTED, "a person is told of it as a float"
    assert judged.confidence == 0.0
