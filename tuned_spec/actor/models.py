"""One question to a configured model and what came of it: `Model.ask(Consult) -> Reply`, never an
exception.

Owns the deadline, the tries, and what is charged to the budget. What differs between vendors is in
`speak_openai` and `speak_anthropic`, of which only the configured one is imported. Must not know cases or
verdicts.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Protocol

import msgspec

from tuned_spec.actor import outcome
from tuned_spec.actor.budget import Purse, Spent
from tuned_spec.actor.config import ModelConfig
from tuned_spec.actor.flow import Consult, Reply, Said
from tuned_spec.actor.outcome import Trouble

if TYPE_CHECKING:
    import httpx2

BYTES_A_TOKEN = 3.0  # of English and JSON it is nearer 4: an estimate should not be too low
LONGEST_ERROR = 400  # characters
MOST_LISTED = 20  # models named when the configured one is not there
WARM_S = 5.0  # far longer than it takes
MOST_TOKENS = 10**9  # that an endpoint may say one call took
SPEAKERS = {"openai": "speak_openai", "anthropic": "speak_anthropic"}
FORMS = {"schema": ("schema", "none"), "json": ("json", "none"), "none": ("none",)}


class Speaker(Protocol):
    """One vendor's protocol. Both raise Trouble."""

    async def say(self, http: httpx2.AsyncClient, consult: Consult, form: str) -> outcome.Said: ...
    async def models(self, http: httpx2.AsyncClient) -> list[str]: ...


class Call:
    """A hold on one `ask`, for whoever may want to give it up."""

    def __init__(self) -> None:
        self.given_up = False
        self._lock = threading.Lock()
        self._task: tuple[asyncio.AbstractEventLoop, asyncio.Task[Reply]] | None = None

    def abandon(self) -> None:
        """From any thread: the connection is closed, `ask` returns at once. What was sent stays charged."""
        with self._lock:
            self.given_up = True
            if self._task:
                loop, task = self._task
                loop.call_soon_threadsafe(task.cancel)

    def holds(self, task: tuple[asyncio.AbstractEventLoop, asyncio.Task[Reply]] | None) -> bool:
        """From now on it would end this; False if it was given up before."""
        with self._lock:
            self._task = task
            return not self.given_up


class Model:
    """One configured model. `ask` may run in several threads at a time; the key is in no message of it."""

    def __init__(self, config: ModelConfig, key: str = "", purse: Purse | None = None) -> None:
        """Imports the vendor's client: before privileges are dropped. OSError for a ca_file of no use."""
        for name in [name for name in os.environ if name.startswith(("OPENAI_", "ANTHROPIC_"))]:
            del os.environ[name]  # headers, keys and addresses that nobody configured here
        self.config, self._key, self._purse = config, key, purse
        self._forms = list(FORMS[config.structured])
        self._wire = importlib.import_module("tuned_spec.actor.wire")
        self._tls = self._wire.trusted(config)
        speaker = importlib.import_module(f"tuned_spec.actor.{SPEAKERS[config.provider]}")
        self._speaker: Speaker = speaker.Speaker(config)

    @property
    def form(self) -> str:
        """How a structured reply is asked for, after what the endpoint has refused."""
        return self._forms[0]

    def ask(self, consult: Consult, call: Call | None = None) -> Reply:
        """Blocks for at most `timeout_s`, whatever the endpoint does."""
        started = time.monotonic()
        exchange = _Exchange(self, consult, started + self.config.timeout_s)
        loop = asyncio.new_event_loop()
        try:
            task = loop.create_task(exchange.run())
            if call is not None and not call.holds((loop, task)):
                task.cancel()
            reply = loop.run_until_complete(task)
        except asyncio.CancelledError:
            reply = Reply(error="given up")
        finally:
            if call is not None:
                call.holds(None)
            _close(loop)
        return msgspec.structs.replace(
            reply,
            text=self._hide(reply.text),
            error=_line(self._hide(reply.error)),
            model=_line(self._hide(reply.model or self.config.name))[:100],
            tokens_in=exchange.tokens_in,
            tokens_out=exchange.tokens_out,
            cost=self.config.prices.of(exchange.tokens_in, exchange.tokens_out),
            seconds=time.monotonic() - started,
        )

    def warm(self) -> None:
        """The libraries import parts of themselves on first use, when they may no longer be readable: so they
        are used now, on an endpoint of our own that knows nothing, over http and https. No thread is left:
        privileges are dropped by the thread."""
        before = threading.enumerate()
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            threading.Thread(target=_answer_nothing, args=(nobody,), daemon=True).start()
            for scheme in ("http", "https"):
                endpoint = f"{scheme}://localhost:{nobody.getsockname()[1]}"
                config = msgspec.structs.replace(
                    self.config, endpoint=endpoint, timeout_s=WARM_S, tries=1, proxy=""
                )
                Model(config).ask(Consult("", (Said("user", ""),), {"type": "object"}, 1))
            for thread in threading.enumerate():
                if thread not in before:
                    thread.join(WARM_S)

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class _Exchange:
    """The tries of one question. Tokens are of all of them."""

    def __init__(self, model: Model, consult: Consult, deadline: float) -> None:
        self.model, self.consult, self.deadline = model, consult, deadline
        self.config = model.config
        self.tokens_in = self.tokens_out = 0

    async def run(self) -> Reply:
        try:
            async with asyncio.timeout(self.left()):
                return await self.tries()
        except TimeoutError:
            return Reply(error=f"no whole answer within {self.config.timeout_s:g} s", again=True)

    def left(self) -> float:
        return self.deadline - time.monotonic()

    async def tries(self) -> Reply:
        number = 0
        while True:
            number += 1
            try:
                said = await self.formed()
                reply = Reply(said.text, said.trouble, said.again, said.model)
                # Cut short or refused it would be so again; an empty one may be chance.
                if not said.trouble or said.text.strip() or not said.again or number >= self.config.tries:
                    return reply
                wait = None
            except Spent as error:
                return Reply(error=str(error))
            except Trouble as error:
                reply, wait = Reply(error=error.what, again=error.again), error.wait_s
                if error.status == 404:
                    reply = Reply(error=error.what + await self.listed())
                if not error.again or number >= self.config.tries:
                    return reply
            pause = self.config.timeout_s / 100 * 2 ** (number - 1) if wait is None else wait
            if pause >= self.left():
                asked = f"; it asks to wait {wait:.0f} s" if wait is not None else ""
                return Reply(error=reply.error + asked, again=True)
            await asyncio.sleep(pause)

    async def formed(self) -> outcome.Said:
        """One try, and a second at once without a structured reply, if it is that what is refused."""
        form = self.model.form
        try:
            return await self.once(form)
        except Trouble as error:
            if error.status not in (400, 422) or form == "none":
                raise
            said = await self.once("none")
            self.model._forms = ["none"]  # it works so: remembered for the next question
            return said

    async def once(self, form: str) -> outcome.Said:
        sent = len(self.consult.system) + sum(len(turn.text.encode()) for turn in self.consult.said)
        into = int(sent / BYTES_A_TOKEN) + 1
        if form == "schema":
            into += int(len(msgspec.json.encode(self.consult.schema)) / BYTES_A_TOKEN)
        purse, prices = self.model._purse, self.config.prices
        most = self.consult.most_tokens
        name = purse.reserve(into + most, prices.of(into, most)) if purse else ""
        tokens = (into, most)  # of one that is not heard of again
        try:
            async with self.model._wire.client(self.config, self.model._key, self.model._tls) as http:
                said = await self.model._speaker.say(http, self.consult, form)
            out = (
                int(len(said.text.encode()) / BYTES_A_TOKEN) + 1
                if said.tokens_out is None
                else said.tokens_out
            )
            tokens = _sane(into if said.tokens_in is None else said.tokens_in), _sane(out)
            return said
        except Trouble as error:
            if error.free:
                tokens = (0, 0)
            raise
        finally:
            self.tokens_in += tokens[0]
            self.tokens_out += tokens[1]
            if purse:
                purse.settle(name, sum(tokens), prices.of(*tokens))

    async def listed(self) -> str:
        """Which models there are, for one whose own is not there."""
        try:
            async with self.model._wire.client(self.config, self.model._key, self.model._tls) as http:
                names = await self.model._speaker.models(http)
        except Trouble:
            return ""
        more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
        return f"; it has {', '.join(names[:MOST_LISTED])}{more}" if names else "; it has none"


def _answer_nothing(server: socket.socket) -> None:
    """Two clients: one gets an empty document, one that speaks TLS gets the same, which it cannot read."""
    server.settimeout(WARM_S)
    try:
        for _ in range(2):
            with server.accept()[0] as client:
                client.recv(1 << 16)
                client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
                client.shutdown(socket.SHUT_WR)
                while client.recv(1 << 16):
                    pass
    except OSError:
        pass


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Without waiting for the thread of a name server that does not answer, as asyncio.run would."""
    try:
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _sane(tokens: int) -> int:
    return min(max(tokens, 0), MOST_TOKENS)


def _line(text: str) -> str:
    """Foreign words on one line, fit for a terminal."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * LONGEST_ERROR]).split())
    return text if len(text) <= LONGEST_ERROR else text[: LONGEST_ERROR - 3] + "..."
