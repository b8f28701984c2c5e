"""The loop over a real socket pair: flows that ask the daemon, a model over real HTTP, or nonsense."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.actor.asking import model
from tests.actor.cases import case
from tuned_spec.actor import channel
from tuned_spec.actor.desk import WORKERS, Desk
from tuned_spec.actor.flow import Consult, Reply, Said
from tuned_spec.actor.serve import Flow, Wits, serve
from tuned_spec.model import (
    Arm,
    Cancel,
    Case,
    Consulted,
    FromActor,
    Measure,
    Measurement,
    ToActor,
    Verdict,
    VerdictKind,
)
from workloads.endpoint import Asked, Endpoint, Hang, Say

Judge = Callable[[Case], Flow]


@dataclass
class Daemon:
    """The other end."""

    door: socket.socket
    decoder: channel.Decoder[FromActor] = field(default_factory=channel.from_actor)
    inbox: list[FromActor] = field(default_factory=list)

    def send(self, *messages: ToActor) -> None:
        self.door.sendall(b"".join(map(channel.encode, messages)))

    def next(self) -> FromActor:
        while not self.inbox:
            data = self.door.recv(1 << 16)
            assert data, "the actor left"
            self.inbox += self.decoder.feed(data)
        return self.inbox.pop(0)

    def verdict(self) -> Verdict:
        message = self.next()
        assert isinstance(message, Verdict), message
        return message


@contextmanager
def running(judge: Judge, endpoint: Endpoint | None = None, **changes: object) -> Iterator[Daemon]:
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    desk = Desk() if endpoint else None
    ask = model(endpoint, "openai", None, **changes).ask if endpoint else None
    with theirs:
        thread = threading.Thread(target=serve, args=(theirs, Wits(judge, ask, desk=desk)))
        thread.start()
        with ours:
            yield Daemon(ours)
        thread.join(20)
        assert not thread.is_alive()


def verdict(case: Case, reason: str) -> Verdict:
    return Verdict(case.id, VerdictKind.REJECT, reason)


def asks(case: Case) -> Generator[Any, Any, Verdict]:
    """One question to the model; what it said is the reason."""
    reply = yield Consult("", (Said("user", case.id),), {}, 50)
    assert isinstance(reply, Reply)
    return verdict(case, reply.text or f"error: {reply.error}")


def measures(case: Case) -> Generator[Any, Any, Verdict]:
    answer = yield Measure(case.id, 1, Arm.A, 0.1, 0.1)
    return verdict(case, f"measured {answer.samples['x']}")


def test_the_models_answer_goes_back_to_the_flow_that_asked() -> None:
    with (
        Endpoint(lambda asked: Say(f"about {asked.prompt}")) as endpoint,
        running(asks, endpoint) as daemon,
    ):
        daemon.send(case(id="one"), case(id="two"))
        found = {v.case: v.reason for v in (daemon.verdict(), daemon.verdict())}
    assert found == {"one": "about one", "two": "about two"}


def test_a_case_that_waits_for_a_model_delays_no_other() -> None:
    def judge(case: Case) -> Flow:
        return asks(case) if case.id == "slow" else measures(case)

    with (
        Endpoint(lambda asked: Hang()) as endpoint,
        running(judge, endpoint, timeout_s=30.0) as daemon,
    ):
        daemon.send(case(id="slow"))
        while not endpoint.asked:
            time.sleep(0.005)
        daemon.send(case(id="quick"))
        question = daemon.next()
        assert isinstance(question, Measure)
        daemon.send(Measurement("quick", question.seq, question.arm, {"x": (1.0,)}))
        assert daemon.verdict().case == "quick"


def test_more_questions_than_workers_wait_their_turn() -> None:
    busy, most, lock = [0], [0], threading.Lock()

    def behave(asked: Asked) -> Say:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.05)
        with lock:
            busy[0] -= 1
        return Say("ok")

    with Endpoint(behave) as endpoint, running(asks, endpoint) as daemon:
        daemon.send(*(case(id=f"c{n}") for n in range(3 * WORKERS)))
        assert {daemon.verdict().reason for _ in range(3 * WORKERS)} == {"ok"}
    assert 1 < most[0] <= WORKERS


def test_a_cancel_gives_the_question_up_and_frees_its_worker() -> None:
    def behave(asked: Asked) -> Say | Hang:
        return Hang() if asked.prompt.startswith("over") else Say("fresh")

    with Endpoint(behave) as endpoint, running(asks, endpoint, timeout_s=60.0) as daemon:
        over = [f"over{n}" for n in range(2 * WORKERS)]
        daemon.send(*(case(id=id) for id in over))
        while len(endpoint.asked) < WORKERS:
            time.sleep(0.005)
        daemon.send(*(Cancel(id, "lease ended") for id in over), case(id="next"))
        assert daemon.verdict() == Verdict("next", VerdictKind.REJECT, "fresh")
        prompts = {asked.prompt for asked in endpoint.asked}
    assert len(prompts) == WORKERS + 1  # those that had not begun never were sent


def test_a_case_that_is_told_anew_begins_anew() -> None:
    with (
        Endpoint(lambda asked: Hang() if asked.number == 0 else Say("second")) as endpoint,
        running(asks, endpoint, timeout_s=60.0) as daemon,
    ):
        daemon.send(case(id="c"))
        while not endpoint.asked:
            time.sleep(0.005)
        daemon.send(case(id="c"))
        assert daemon.verdict().reason == "second"


def test_a_report_is_sent_and_the_flow_goes_on() -> None:
    def judge(case: Case) -> Flow:
        for number in range(3):
            told = yield Consulted(case.id, "m", "", "", (), f"exchange {number}")
            assert told is None
        return verdict(case, "done")

    with running(judge) as daemon:
        daemon.send(case())
        said = [daemon.next() for _ in range(4)]
    assert [m.outcome for m in said if isinstance(m, Consulted)] == [f"exchange {n}" for n in range(3)]
    assert isinstance(said[-1], Verdict)


def test_a_report_that_is_too_large_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    def judge(case: Case) -> Flow:
        yield Consulted(case.id, "m", "", "x" * channel.FROM_ACTOR_LIMIT, (), "")
        return verdict(case, "done")

    with running(judge) as daemon:
        daemon.send(case())
        assert daemon.verdict().reason == "done"
    assert "it is not on record" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("raises", "ValueError('hm')"),
        ("nonsense", "AssertionError"),
        ("nothing", "without a verdict"),
        ("large", "the receiver takes"),
        ("large question", "the receiver takes"),
        ("dies at the answer", "KeyError"),
    ],
)
def test_a_flow_that_fails_is_silence_for_its_case_alone(
    name: str, complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(case: Case) -> Generator[Any, Any, Any]:
        match name:
            case "raises":
                raise ValueError("hm")
            case "nonsense":
                yield "what?"
            case "nothing":
                return None
            case "large":
                return verdict(case, "x" * channel.FROM_ACTOR_LIMIT)
            case "large question":
                yield Measure("x" * channel.FROM_ACTOR_LIMIT, 1, Arm.A, 0.1, 0.1)
            case _:
                yield from measures(case)
        return None

    with running(lambda case: broken(case) if case.id == "bad" else measures(case)) as daemon:
        daemon.send(case(id="bad"))
        if name == "dies at the answer":
            daemon.next()
            daemon.send(Measurement("bad", 1, Arm.A, {}))
        daemon.send(case(id="good"))
        question = daemon.next()
        assert isinstance(question, Measure)
        assert question.case == "good"
    said = capfd.readouterr().err
    assert complaint in said
    assert "Traceback" not in said


def test_a_flow_that_will_not_end_when_told_so_is_left(capfd: pytest.CaptureFixture[str]) -> None:
    def stubborn(case: Case) -> Flow:
        try:
            yield Measure(case.id, 1, Arm.A, 0.1, 0.1)
        finally:
            yield Measure(case.id, 2, Arm.A, 0.1, 0.1)
        return verdict(case, "never")

    with running(lambda case: stubborn(case) if case.id == "s" else measures(case)) as daemon:
        daemon.send(case(id="s"))
        daemon.next()
        daemon.send(Cancel("s", "over"), case(id="t"))
        question = daemon.next()
        assert isinstance(question, Measure)
        assert question.case == "t"
    assert "case s ended badly" in capfd.readouterr().err


def test_who_asks_a_model_without_one_is_told() -> None:
    with running(asks) as daemon:
        daemon.send(case())
        assert daemon.verdict().reason == "error: no model is configured"


def test_the_end_waits_for_no_endpoint() -> None:
    with (
        Endpoint(lambda asked: Hang()) as endpoint,
        running(asks, endpoint, timeout_s=600.0) as daemon,
    ):
        daemon.send(case())
        while not endpoint.asked:
            time.sleep(0.005)


def test_a_measurement_while_the_model_is_asked_is_nobodys() -> None:
    with (
        Endpoint(lambda asked: Say("later", wait_s=0.2)) as endpoint,
        running(asks, endpoint) as daemon,
    ):
        daemon.send(case(id="c"), Measurement("c", 0, Arm.A, {}), Measurement("c", 1, Arm.A, {}))
        assert daemon.verdict().reason == "later"
