"""The actor's loop: one socket, one generator a case.

Knows how to carry messages to flows and back; knows nothing of what a flow asks or why. A flow that
fails is silence for its case, so that its lease runs out, and never the end of the actor.
"""

from __future__ import annotations

import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from tuned_spec.actor import channel
from tuned_spec.actor.trial import Flow
from tuned_spec.model import Cancel, Case, FromActor, Measurement, Outlook, ProbeAnswer, Verdict

Judge = Callable[[Case], Flow]


@dataclass
class Running:
    flow: Flow
    asked: int = 0  # seq of the question whose answer it waits for


class Actor:
    """Running cases by id. `take` is given one message and returns what is to be sent."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._cases: dict[str, Running] = {}

    def take(self, message: Case | Measurement | ProbeAnswer | Cancel | Outlook) -> list[FromActor]:
        match message:
            case Case():
                self._end(message.id)
                self._cases[message.id] = Running(self._judge(message))
                return self._advance(message.id, None)
            case Measurement() | ProbeAnswer():
                running = self._cases.get(message.case)
                # An answer that comes after its case was cancelled, or twice, is nobody's.
                if running is None or running.asked != message.seq:
                    return []
                return self._advance(message.case, message)
            case Cancel():
                self._end(message.case)
                return []
            case Outlook():
                return []
            case _:
                assert_never(message)

    def _advance(self, case: str, answer: Measurement | ProbeAnswer | None) -> list[FromActor]:
        running = self._cases[case]
        try:
            question = next(running.flow) if answer is None else running.flow.send(answer)
        except StopIteration as end:
            del self._cases[case]
            verdict: Verdict = end.value
            return [verdict]
        except Exception as error:
            del self._cases[case]
            at = traceback.extract_tb(error.__traceback__)[-1]
            complain(f"case {case} given up: {error!r} at {at.filename}:{at.lineno}; its lease will run out")
            return []
        running.asked = question.seq
        return [question]

    def _end(self, case: str) -> None:
        if running := self._cases.pop(case, None):
            running.flow.close()


def serve(door: socket.socket, judge: Judge) -> None:
    """Until the daemon closes its end. ProtocolError if it sends what no daemon of ours would."""
    actor, decoder = Actor(judge), channel.to_actor()
    while data := door.recv(1 << 16):
        for message in decoder.feed(data):
            for reply in actor.take(message):
                door.sendall(channel.encode(reply))
    decoder.finish()


def complain(what: str) -> None:
    print(f"tuned-spec-actor: {what}", file=sys.stderr, flush=True)
