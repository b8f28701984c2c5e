"""A model's endpoint on this machine: OpenAI's chat completions and Anthropic's messages over real HTTP.

What it answers is decided for each request by a function, `Behave`; `SCRIPTS` has the usual ones by name.
It is no model: what is shown with it is plumbing, never the quality of an answer. Tests, benches and the
demo use it; `python -m workloads.endpoint --script NAME --port N` runs it alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, assert_never

MODEL = "scripted-1"
PATHS = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic"}


@dataclass(frozen=True)
class Asked:
    """One request, whichever protocol it came in. `schema` is None where no structured reply was asked for,
    and {} where any JSON would do."""

    number: int  # 0, 1, 2 ... of this endpoint
    protocol: str
    headers: Mapping[str, str]  # names in lower case
    body: Mapping[str, Any]
    system: str
    said: tuple[str, ...]  # the conversation, the user's turn first
    schema: Mapping[str, Any] | None

    @property
    def prompt(self) -> str:
        return self.said[-1] if self.said else ""

    @property
    def tokens(self) -> int:
        return count(self.system) + sum(count(text) for text in self.said)


def count(text: str) -> int:
    """Tokens, as this endpoint counts them: words and signs. No real model's tokenizer."""
    return len(re.findall(r"\w+|[^\w\s]", text))


# ------------------------------------------------------------------ what can be answered


@dataclass(frozen=True)
class Say:
    """The model's text. `finish`: "stop", "length" (cut at most_tokens), "refusal" or "filter"."""

    text: str
    wait_s: float = 0.0
    finish: str = "stop"
    usage: bool = True  # whether tokens are told


@dataclass(frozen=True)
class Fail:
    """An error as the protocol words it."""

    status: int
    message: str = "this was scripted"
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0


@dataclass(frozen=True)
class Raw:
    """These bytes as the whole answer."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


@dataclass(frozen=True)
class Drip:
    """A good reply, one byte each `every_s`; with `from_start` the headers drip as well."""

    text: str
    every_s: float = 1.0
    from_start: bool = False


@dataclass(frozen=True)
class Hang:
    """Nothing at all for so long."""

    seconds: float = 3600.0


@dataclass(frozen=True)
class Cut:
    """Half a reply, then the connection is reset."""

    text: str = "this is never read to its end"


@dataclass(frozen=True)
class Huge:
    """A well-formed reply of so many bytes; `bomb`: sent compressed, which makes it small on the way."""

    size: int = 8 << 20
    bomb: bool = False


@dataclass(frozen=True)
class Echo:
    """An error whose message repeats every header of the request, the key's too."""

    status: int = 400


Answer = Say | Fail | Raw | Drip | Hang | Cut | Huge | Echo
Behave = Callable[[Asked], Answer]


def in_turn(*answers: Answer) -> Behave:
    """Each once; then the last for ever."""
    return lambda asked: answers[min(asked.number, len(answers) - 1)]


def redirect(to: str, status: int = 307) -> Raw:
    return Raw(b"", status, {"Location": to})


def fill(schema: Mapping[str, Any], rng: random.Random, depth: int = 0) -> Any:
    """Some value that a JSON schema allows: what a model under a grammar would say."""
    if "const" in schema:
        return schema["const"]
    if choices := schema.get("enum"):
        return rng.choice(list(choices))
    if variants := schema.get("anyOf") or schema.get("oneOf"):
        return fill(rng.choice(list(variants)), rng, depth + 1)
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        kind = rng.choice(kind)
    low, high = schema.get("minimum", -1000), schema.get("maximum", 1000)
    match kind:
        case "object":
            properties = schema.get("properties", {})
            wanted = [n for n in properties if n in schema.get("required", ()) or rng.random() < 0.5]
            return {name: fill(properties[name], rng, depth + 1) for name in wanted}
        case "array":
            most = min(schema.get("maxItems", 3), 3) if depth < 5 else 0
            size = max(schema.get("minItems", 0), rng.randint(0, most))
            return [fill(schema.get("items", {}), rng, depth + 1) for _ in range(size)]
        case "integer":
            return rng.randint(int(low), int(high))
        case "number":
            return rng.uniform(low, high)
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
        case _:
            return " ".join(rng.choice(("ok", "so", "it", "is", "9", "—", "")) for _ in range(3))


def random_replies(rng: random.Random) -> Behave:
    """Anything an endpoint may do, in no order; nothing takes longer than a tenth of a second."""

    def behave(asked: Asked) -> Answer:
        text = json.dumps(fill(asked.schema or {"type": "object"}, rng))
        cut_at = rng.randrange(len(text))
        return rng.choice(
            (
                Say(text),
                Say(text),
                Say(text[:cut_at], finish="length"),
                Say("I would rather not.", finish="refusal"),
                Say(f"Certainly! Here it is:\n```json\n{text}\n```"),
                Say(text.replace(text[cut_at], chr(rng.randrange(32, 0x250)))),
                Say("", wait_s=rng.uniform(0, 0.1)),
                Say(json.dumps(rng.choice((None, 3, [], {"verdict": text}, "yes")))),
                Fail(rng.choice((400, 401, 403, 404, 413, 429, 500, 502, 503, 529))),
                Raw(rng.randbytes(rng.randrange(200))),
                Raw(text.encode(), headers={"Content-Type": "text/html"}),
                Raw(json.dumps(rng.choice((None, [], {}, {"choices": []}, {"content": 3}))).encode()),
                Cut(),
                Huge(2 << 20),
            )
        )

    return behave


def _fixed(answer: Answer) -> Callable[[random.Random], Behave]:
    return lambda rng: lambda asked: answer


# name -> given a source of chance, what decides the answers
SCRIPTS: dict[str, Callable[[random.Random], Behave]] = {
    "schema": lambda rng: lambda asked: Say(json.dumps(fill(asked.schema or {"type": "object"}, rng))),
    "slow": lambda rng: lambda asked: Say(json.dumps(fill(asked.schema or {}, rng)), wait_s=5.0),
    "prose": _fixed(Say("In my opinion, swappiness is a very interesting setting.")),
    "wrong": _fixed(Say('{"answer": 42}')),
    "refusal": _fixed(Say("I cannot help with that.", finish="refusal")),
    "filter": _fixed(Say("", finish="filter")),
    "half": _fixed(Say('{"verdict": "conf', finish="length")),
    "empty": _fixed(Say("")),
    "drip": _fixed(Drip("{}")),
    "hang": _fixed(Hang()),
    "busy": _fixed(Fail(429, "slow down", {"Retry-After": "1"})),
    "broken": _fixed(Fail(500)),
    "cut": _fixed(Cut()),
    "huge": _fixed(Huge()),
    "bomb": _fixed(Huge(bomb=True)),
    "html": _fixed(Raw(b"<html>welcome to the hotel", headers={"Content-Type": "text/html"})),
    "echo": _fixed(Echo()),
    "random": random_replies,
}


# ---------------------------------------------------------------------------- the server


class Endpoint:
    """Serves on the loopback from `with` until its end. `key`: the only one that is let in; None lets all in.

    `plain_only`: as an endpoint that has no structured replies, it answers 400 to who asks for one. `tls`: a
    server's context. `asked` is every request that came to a reply, in order.
    """

    def __init__(
        self,
        behave: Behave,
        *,
        port: int = 0,
        key: str | None = None,
        models: Sequence[str] = (MODEL,),
        plain_only: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.behave, self.key, self.models, self.plain_only = behave, key, tuple(models), plain_only
        self.asked: list[Asked] = []
        self.over = threading.Event()  # what hangs or drips goes on until then
        self._turn = threading.Lock()
        self._server = _Server(("127.0.0.1", port), self, tls)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.scheme = "https" if tls else "http"

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, protocol: str = "openai", host: str = "127.0.0.1") -> str:
        """What a client of that protocol is configured with: the vendors add different paths."""
        return f"{self.scheme}://{host}:{self.port}" + ("/v1" if protocol == "openai" else "")

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(
        self, protocol: str, headers: Mapping[str, str], body: Mapping[str, Any]
    ) -> tuple[Asked, Answer]:
        with self._turn:
            asked = read(len(self.asked), protocol, headers, body)
            self.asked.append(asked)
        return asked, self.judge(asked)

    def judge(self, asked: Asked) -> Answer:
        if self.key is not None and self.key not in (
            asked.headers.get("x-api-key"),
            asked.headers.get("authorization", "").removeprefix("Bearer "),
        ):
            return Fail(401, "invalid key")
        if asked.body.get("model") not in self.models:
            return Fail(404, f"the model {asked.body.get('model')} does not exist")
        if self.plain_only and asked.schema is not None:
            return Fail(400, "response_format is not supported")
        return self.behave(asked)


def read(number: int, protocol: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Asked:
    said = [(m.get("role", ""), _text(m.get("content"))) for m in body.get("messages", [])]
    system = _text(body.get("system")) or "\n".join(text for role, text in said if role == "system")
    form = body.get("response_format") or (body.get("output_config") or {}).get("format") or {}
    schema: Mapping[str, Any] | None = None
    if form.get("type") == "json_schema":
        schema = form.get("schema") or form.get("json_schema", {}).get("schema", {})
    elif form.get("type") == "json_object":
        schema = {}
    turns = tuple(text for role, text in said if role != "system")
    return Asked(number, protocol, headers, body, system, turns, schema)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], endpoint: Endpoint, tls: ssl.SSLContext | None) -> None:
        super().__init__(address, _Handler)
        self.endpoint, self.tls = endpoint, tls

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the request's own thread, so that a client without manners holds up nobody else."""
        if self.tls is not None:
            request.settimeout(10)
            try:
                with self.tls.wrap_socket(request, server_side=True) as line:
                    line.settimeout(None)
                    super().finish_request(line, client_address)
            except OSError:  # it did not like our certificate, or went away
                return
        else:
            super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away is none
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.partition("?")[0] == "/v1/models":
            listed = [
                {"id": name, "object": "model", "type": "model"} for name in self.server.endpoint.models
            ]
            self.whole(200, json.dumps({"object": "list", "data": listed, "has_more": False}).encode())
        else:
            self.whole(404, b'{"error": {"message": "no such path"}}')

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(size)
        protocol = PATHS.get(self.path.partition("?")[0])
        if protocol is None:
            self.whole(404, b'{"error": {"message": "no such path"}}')
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            body = json.loads(data)
        except ValueError:
            self.whole(400, error(protocol, 400, "the body is not JSON"))
            return
        asked, answer = self.server.endpoint.take(protocol, headers, body)
        try:
            self.answer(asked, answer)
        except OSError:  # it went away: what scripted slowness is for
            self.close_connection = True

    def answer(self, asked: Asked, answer: Answer) -> None:
        over = self.server.endpoint.over
        match answer:
            case Say():
                over.wait(answer.wait_s)
                self.whole(200, reply(asked, answer))
            case Fail():
                over.wait(answer.wait_s)
                self.whole(
                    answer.status, error(asked.protocol, answer.status, answer.message), answer.headers
                )
            case Raw():
                self.whole(answer.status, answer.body, answer.headers)
            case Drip():
                self.drip(reply(asked, Say(answer.text)), answer)
            case Hang():
                over.wait(answer.seconds)
                self.close_connection = True
            case Cut():
                body = reply(asked, Say(answer.text))
                self.head(200, len(body))
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                # With nothing to linger for, closing is a reset.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
            case Huge():
                self.huge(asked, answer)
            case Echo():
                message = "; ".join(f"{name}: {value}" for name, value in asked.headers.items())
                self.whole(answer.status, error(asked.protocol, answer.status, message))
            case _:
                assert_never(answer)

    def head(self, status: int, size: int, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers if headers is not None else {"Content-Type": "application/json"}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def whole(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.head(status, len(body), {"Content-Type": "application/json", **(headers or {})})
        self.wfile.write(body)

    def drip(self, body: bytes, how: Drip) -> None:
        stream = body
        if how.from_start:
            stream = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            stream += f"Content-Length: {len(body)}\r\n\r\n".encode() + body
        else:
            self.head(200, len(body))
        for byte in stream:
            if self.server.endpoint.over.wait(how.every_s):
                break
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
        self.close_connection = True

    def huge(self, asked: Asked, how: Huge) -> None:
        body = reply(asked, Say("0" * how.size))
        if how.bomb:
            packed = gzip.compress(body, 6)
            self.head(200, len(packed), {"Content-Type": "application/json", "Content-Encoding": "gzip"})
            self.wfile.write(packed)
        else:
            self.head(200, len(body))
            self.wfile.write(body)


def reply(asked: Asked, say: Say) -> bytes:
    """What the protocol makes of it."""
    into, out = asked.tokens, count(say.text)
    document: dict[str, Any]
    if asked.protocol == "openai":
        finish = {"filter": "content_filter", "refusal": "stop"}.get(say.finish, say.finish)
        message: dict[str, Any] = {"role": "assistant", "content": say.text}
        if say.finish == "refusal":
            message |= {"content": None, "refusal": say.text}
        document = {
            "id": f"chatcmpl-{asked.number}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": asked.body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        }
        if say.usage:
            document["usage"] = {"prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out}
    else:
        stop = {"stop": "end_turn", "length": "max_tokens", "filter": "refusal"}.get(say.finish, say.finish)
        document = {
            "id": f"msg_{asked.number}",
            "type": "message",
            "role": "assistant",
            "model": asked.body["model"],
            "content": [{"type": "text", "text": say.text}] if say.text else [],
            "stop_reason": stop,
            "stop_sequence": None,
        }
        if say.usage:
            document["usage"] = {"input_tokens": into, "output_tokens": out}
    return json.dumps(document).encode()


def error(protocol: str, status: int, message: str) -> bytes:
    kinds = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}
    about = {
        "type": kinds.get(status, "rate_limit_error" if status == 429 else "api_error"),
        "message": message,
    }
    if protocol == "openai":
        return json.dumps({"error": {**about, "param": None, "code": None}}).encode()
    return json.dumps({"type": "error", "error": about}).encode()


def main() -> int:
    parser = argparse.ArgumentParser(prog="workloads.endpoint", description=__doc__.partition("\n")[0])
    parser.add_argument("--script", choices=sorted(SCRIPTS), default="schema")
    parser.add_argument("--port", type=int, default=0, help="on the loopback (default: any that is free)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", action="append", help=f"a model's name it knows (default {MODEL})")
    args = parser.parse_args()
    behave = SCRIPTS[args.script](random.Random(args.seed))
    with Endpoint(behave, port=args.port, models=args.model or (MODEL,)) as endpoint:
        print(f"{args.script}: openai {endpoint.url()}, anthropic {endpoint.url('anthropic')}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
