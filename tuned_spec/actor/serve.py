"""The actor's loop: one door, one generator for each case or outlook.

Knows how to carry effects to the daemon or to a model, and answers back; knows nothing of what a flow asks or
why. A flow that fails is silence for its case, so that its lease runs out, and never the end of the actor. A
case that waits for a model keeps no other case waiting.
"""

from __future__ import annotations

import select
import socket
import sys
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

from tuned_spec.actor import channel
from tuned_spec.actor.flow import Answer, Asked, Consult, Reply, Silence, Suggesting
from tuned_spec.errors import ProtocolError
from tuned_spec.model import (
    Cancel,
    Case,
    Consulted,
    FromActor,
    Measure,
    Measurement,
    Notice,
    Outlook,
    Probe,
    ProbeAnswer,
    Suggestion,
    ToActor,
    Verdict,
)

if TYPE_CHECKING:
    from tuned_spec.actor.desk import Ask, Desk
    from tuned_spec.actor.models import Call

Flow = Generator[Any, Any, Verdict]
Judge = Callable[[Case], Flow]
Suggest = Callable[[Outlook], Suggesting]
Notify = Callable[[Notice], None]


@dataclass
class Running:
    flow: Flow | Suggesting
    ask: Ask | None = None  # of the model that its questions are for
    asked: int | None = None  # seq of the question whose answer it waits for from the daemon
    call: Call | None = None  # what it waits for from a model


@dataclass(frozen=True)
class Wits:
    """What an actor can do. `ask` is of the model that judges, `ask_fast` of the one that proposes."""

    judge: Judge
    ask: Ask | None = None
    suggest: Suggest | None = None
    ask_fast: Ask | None = None
    desk: Desk | None = None  # with a model only
    notify: Notify | None = None


class Actor:
    """Running flows by the id of their case or outlook. `take` and `heard` return what is to be sent."""

    def __init__(self, wits: Wits) -> None:
        self._wits = wits
        self._flows: dict[str, Running] = {}

    def take(self, message: ToActor) -> list[FromActor]:
        """A message of the daemon's."""
        match message:
            case Case():
                return self._begin(message.id, Running(self._wits.judge(message), self._wits.ask))
            case Measurement() | ProbeAnswer():
                running = self._flows.get(message.case)
                # An answer that comes after its case was cancelled, or twice, is nobody's.
                if running is None or running.asked != message.seq:
                    return []
                return self._advance(message.case, message)
            case Cancel():
                self.end(message.case)
                return []
            case Notice():
                if self._wits.notify:
                    self._wits.notify(message)
                return []
            case Outlook() if self._wits.suggest:
                return self._begin(message.id, Running(self._wits.suggest(message), self._wits.ask_fast))
            case Outlook():
                return []
            case _:
                assert_never(message)

    def heard(self) -> list[FromActor]:
        """The models' answers that have come in. One that was given up is nobody's."""
        sent: list[FromActor] = []
        for call, reply in self._wits.desk.taken() if self._wits.desk else ():
            if id := next((id for id, running in self._flows.items() if running.call is call), None):
                sent += self._advance(id, reply)
        return sent

    def end(self, id: str) -> None:
        """No more of this case; a question on its way to a model is given up."""
        if (running := self._flows.pop(id, None)) is None:
            return
        if running.call:
            running.call.abandon()
        try:
            running.flow.close()
        except Exception as error:  # it would not go quietly
            complain(f"case {id} ended badly: {_words(error)}")

    def _begin(self, id: str, running: Running) -> list[FromActor]:
        self.end(id)
        self._flows[id] = running
        return self._advance(id, None)

    def _advance(self, id: str, answer: Answer) -> list[FromActor]:
        """To the flow's next question that takes time, or to its end."""
        running = self._flows[id]
        running.asked = running.call = None
        sent: list[FromActor] = []
        while True:
            try:
                asked: Asked = running.flow.send(answer)  # the first is None, as a generator wants it
                match asked:
                    case Measure() | Probe():
                        running.asked = asked.seq
                        return [*sent, asked]
                    case Consult() if running.ask and self._wits.desk:
                        running.call = self._wits.desk.put(running.ask, asked)
                        return sent
                    case Consult():
                        answer = Reply(error="no model is configured")
                    case Consulted():
                        sent.append(asked)
                        answer = None
                    case _:
                        assert_never(asked)
            except StopIteration as end:
                del self._flows[id]
                if isinstance(end.value, Verdict | Suggestion):
                    return [*sent, end.value]
                complain(f"case {id} ended without a verdict; its lease will run out")
                return sent
            except Silence as silence:
                del self._flows[id]
                complain(f"case {id} is not answered: {silence}")
                return sent
            except Exception as error:
                del self._flows[id]
                complain(f"case {id} given up: {_words(error)}; its lease will run out")
                return sent


def serve(door: socket.socket, wits: Wits) -> None:
    """Until the daemon closes its end. ProtocolError if it sends what no daemon of ours would."""
    actor, decoder, desk = Actor(wits), channel.to_actor(), wits.desk
    poll = select.poll()
    poll.register(door, select.POLLIN)
    if desk:
        poll.register(desk.bell, select.POLLIN)
    try:
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if desk and desk.bell.fileno() in ready:
                _send(door, actor, actor.heard())
            if door.fileno() in ready:
                if not (data := door.recv(1 << 16)):
                    break
                for message in decoder.feed(data):
                    _send(door, actor, actor.take(message))
        decoder.finish()
    finally:
        if desk:
            desk.close()


def _send(door: socket.socket, actor: Actor, messages: list[FromActor]) -> None:
    for message in messages:
        try:
            frame = channel.encode(message)
        except (ProtocolError, TypeError, ValueError) as error:  # too large, or made of what is no JSON
            what = "its lease will run out" if not isinstance(message, Consulted) else "it is not on record"
            complain(f"not sent: {error}; {what}")
            if isinstance(message, Measure | Probe):
                actor.end(message.case)
            continue
        door.sendall(frame)


def _words(error: Exception) -> str:
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{error!r} at {at.filename}:{at.lineno}"


def complain(what: str) -> None:
    print(f"tuned-spec-actor: {what}", file=sys.stderr, flush=True)
