"""The daemon's end of the door to the actor: starts it, speaks the framed protocol, starts it anew.

Owns what is said over the child's socket. Whatever comes out of that socket is data from an
unprivileged stranger: it is decoded strictly, bounded in size and rate, and a peer that breaks the
protocol is killed. Knows nothing of trials.
"""

from __future__ import annotations

import os
import socket
import sys

import msgspec

from tuned_spec.actor.channel import encode, from_actor
from tuned_spec.daemon.child import Child
from tuned_spec.errors import ProtocolError
from tuned_spec.model import Consulted, FromActor, Hello, Suggestion, ToActor, Verdict

READ_AT_ONCE = 64 * 1024  # bytes read a wake-up, so that a flood cannot hold the loop
MESSAGES_A_SECOND = 200  # a trial needs about three
LONGEST_REVIEW_S = 600.0  # what an actor may ask for beside the measurements
UNSENT_LIMIT = 4 * 1024 * 1024  # an actor that reads nothing is as good as dead
MOST_COUNTED = 10**12  # of anything that it counts or measures
PROGRAM = (sys.executable, "-m", "tuned_spec.actor")

replace = msgspec.structs.replace


class ActorLink(Child):
    """One actor process at a time. `receive` never blocks and never raises."""

    def __init__(
        self,
        seed: int | None = None,
        command: tuple[str, ...] = PROGRAM,
    ) -> None:
        super().__init__(command + (() if seed is None else ("--seed", str(seed))), socket.SOCK_STREAM)
        self.kind = "trial"
        self.ready = False
        self.review_s, self.speculates = 0.0, False
        self.heard = 0.0  # when it last said something sensible
        self._unsent = bytearray()
        self._decoder = from_actor()
        self._second = (0, 0)

    def start(self, t: float) -> str:
        self.ready = False
        self._unsent.clear()
        self._decoder = from_actor()
        return super().start(t)

    @property
    def wants_to_write(self) -> bool:
        return bool(self._unsent)

    def tell(self, message: ToActor) -> str:
        """Queue a message; returns why the actor must be given up, or ""."""
        if self.sock is None:
            return ""
        try:
            self._unsent += encode(message)
        except ProtocolError as error:
            return f"a message to it cannot be sent: {error}"
        return self.flush()

    def flush(self) -> str:
        if self.sock is None:
            return ""
        try:
            while self._unsent:
                del self._unsent[: self.sock.send(self._unsent)]
        except BlockingIOError:
            if len(self._unsent) > UNSENT_LIMIT:
                return "it reads nothing"
        except OSError as error:
            return f"its socket failed: {error.strerror}"
        return ""

    def receive(self, t: float) -> tuple[list[FromActor], str]:
        """What it said, and why it must be given up (or "")."""
        if self.sock is None:
            return [], ""
        try:
            data = self.sock.recv(READ_AT_ONCE)
        except BlockingIOError:
            return [], ""
        except OSError as error:
            return [], f"its socket failed: {error.strerror}"
        if not data:
            return [], "it closed the connection"
        try:
            messages = self._decoder.feed(data)
        except ProtocolError as error:
            return [], f"it broke the protocol: {error}"
        second, count = self._second
        self._second = (int(t), len(messages) + (count if int(t) == second else 0))
        if self._second[1] > MESSAGES_A_SECOND:
            return [], f"it floods: more than {MESSAGES_A_SECOND} messages a second"
        if messages:
            self.heard = t
        return [_plain(m) for m in messages], ""

    def give_up(self, t: float) -> None:
        super().give_up(t)
        self.ready = False

    def accept(self, hello: Hello) -> str:
        """Check the first message: whoever still has root's power may not judge. Returns why not, or ""."""
        if self.ready:
            return "it said hello twice"
        if self.process is None or hello.pid != self.process.pid:
            return f"it said it is process {hello.pid}"
        if os.geteuid() == 0 and _uid_of(hello.pid) == 0:
            return "it kept root's privileges"
        self.kind, self.ready = _printable(hello.kind, 60), True
        self.speculates = hello.speculates
        self.review_s = min(max(hello.review_s, 0.0), LONGEST_REVIEW_S)
        return ""


def _plain(message: FromActor) -> FromActor:
    """Its words end up on terminals: no control characters, and not a book."""
    match message:
        case Suggestion():
            return replace(
                message, reason=_printable(message.reason, 500), metric=_printable(message.metric, 200)
            )
        case Verdict():
            return _plain_verdict(message)
        case Consulted():
            return _plain_consulted(message)
        case _:
            return message


def _plain_consulted(said: Consulted) -> Consulted:
    """What is said in it is long and has lines; `status` adds its figures up."""
    return replace(
        said,
        model=_printable(said.model, 120),
        system=_printable(said.system, 100),
        prompt=_lines(said.prompt),
        exchange=tuple(map(_lines, said.exchange)),
        outcome=_printable(said.outcome, 600),
        tokens_in=min(max(said.tokens_in, 0), MOST_COUNTED),
        tokens_out=min(max(said.tokens_out, 0), MOST_COUNTED),
        cost=min(max(said.cost, 0.0), MOST_COUNTED),
        seconds=min(max(said.seconds, 0.0), MOST_COUNTED),
        calls=min(max(said.calls, 0), MOST_COUNTED),
        probes=min(max(said.probes, 0), MOST_COUNTED),
    )


def _plain_verdict(verdict: Verdict) -> Verdict:
    guards = {_printable(k, 100): _printable(v, 300) for k, v in list(verdict.guards.items())[:32]}
    opinions = {_printable(k, 40): _printable(v, 1000) for k, v in list(verdict.opinions.items())[:8]}
    strategy = tuple(replace(item, reason=_printable(item.reason, 300)) for item in verdict.strategy)
    return replace(
        verdict,
        effect=_figure(verdict.effect),
        low=_figure(verdict.low),
        high=_figure(verdict.high),
        e_value=_figure(verdict.e_value),
        pairs=min(max(verdict.pairs, 0), MOST_COUNTED),
        confidence=min(max(verdict.confidence, 0.0), 1.0),
        claim=_printable(verdict.claim, 40),
        reason=_printable(verdict.reason, 1000),
        guards=guards,
        by=_printable(verdict.by, 40),
        opinions=opinions,
        strategy=strategy,
    )


def _figure(figure: float | None) -> float | None:
    """What is remembered of it is added up and kept over the boot: no sum of two may be infinite."""
    return None if figure is None else min(max(figure, -MOST_COUNTED), MOST_COUNTED)


def _lines(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def _printable(text: str, most: int) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def _uid_of(pid: int) -> int:
    """Effective uid by the kernel's word, not by the actor's."""
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith("Uid:"):
                    return int(line.split()[2])
    except OSError:
        pass
    return 0
