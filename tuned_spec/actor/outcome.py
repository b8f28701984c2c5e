"""What came of one try at an endpoint: `Said`, or a `Trouble` in plain words that says what to do.

Owns the words for statuses and connections, and which of them may do better when tried again. Must not know
a vendor's library; foreign text in a Trouble is as it came: who shows it cleans it.
"""

from __future__ import annotations

import email.utils
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from tuned_spec.model import Frozen

T = TypeVar("T")
FREE = (401, 403, 404, 429)  # statuses behind which no model has worked: nothing is charged


class Said(Frozen, frozen=True):
    """A reply, whole and understood. `trouble`: why its text is no answer, or ""; tokens None: not told."""

    text: str
    model: str = ""
    trouble: str = ""
    again: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None


class Trouble(Exception):
    """`again`: the same may do better; `free`: no model has worked for it; `wait_s`: the endpoint's wish."""

    def __init__(
        self, what: str, *, again: bool, free: bool = False, status: int = 0, wait_s: float | None = None
    ) -> None:
        super().__init__(what)
        self.what, self.again, self.free, self.status, self.wait_s = what, again, free, status, wait_s


_HINTS = {
    400: "the request is refused",
    401: "the key is refused: check key_file or credential, or give one",
    403: "the key may not do this: check what the account and the key are allowed",
    404: "no such model or path: check name, and whether the endpoint ends in /v1",
    408: "the endpoint ran out of time",
    413: "the request is too large for the endpoint",
    429: "asked too often, or the account is empty",
    529: "the endpoint is overloaded",
}


def of_status(status: int, body: bytes, headers: Mapping[str, str], now: float | None = None) -> Trouble:
    """An answer that is not 200. `now`: seconds of the wall clock, for a Retry-After that is a date."""
    if 300 <= status < 400:
        to = headers.get("location", "nowhere")
        what = f"answers with a redirect to {to}, which is not followed; if that is right, configure it"
        return Trouble(what, again=False, status=status)
    hint = _HINTS.get(status, "the endpoint has trouble" if status >= 500 else "the request is refused")
    return Trouble(
        ": ".join(filter(None, (f"{hint} ({status})", _message(body)))),
        again=status in (408, 409, 425, 429) or status >= 500,
        free=status in FREE or status < 400,
        status=status,
        wait_s=_retry_after(headers, time.time() if now is None else now),
    )


def of_connection(error: BaseException) -> Trouble:
    """No answer: what was at the bottom of it."""
    for cause in _causes(error):
        name = type(cause).__name__
        if name == "TooLarge":  # of wire.py, which is not to be imported by all who read this
            return Trouble("the reply is too large: it was cut off at 1 MiB", again=True)
        if name == "Compressed":
            return Trouble(f"the reply is compressed ({cause}), though none was asked for", again=False)
        match cause:
            case ssl.SSLCertVerificationError():
                what = f"its certificate is not trusted: {cause.verify_message}"
                hint = "name the authority's file as ca_file, or correct the address"
                return Trouble(f"{what}; {hint}", again=False, free=True)
            case ssl.SSLError():
                what = f"no TLS there: {cause.reason or cause}; is it http instead of https, or another port?"
                return Trouble(what, again=False, free=True)
            case socket.gaierror():
                what = f"its name is not known: {cause.strerror}; check the endpoint and this host's DNS"
                return Trouble(what, again=True, free=True)
            case ConnectionRefusedError():
                return Trouble(
                    "nothing listens there: connection refused; is it running?", again=True, free=True
                )
    below = [cause for cause in _causes(error) if str(cause)]
    what = str(below[-1]) if below else type(error).__name__
    return Trouble(f"the connection broke: {what}", again=True, free=_unsent(error))


def of_rubbish(body: bytes, what: str) -> Trouble:
    """A 200 that is not what the protocol has there."""
    start = body[:60].decode("utf-8", "replace")
    return Trouble(f"the endpoint's answer is not {what}; it starts with {start!r}", again=True)


def decoded(body: bytes, kind: type[T], what: str) -> T:
    """The whole answer, or Trouble that says it is no such thing."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise of_rubbish(body, what) from None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all below it, groups opened, each once."""
    waiting, seen = [error], set()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            waiting += cause.exceptions
        waiting += [below for below in (cause.__cause__, cause.__context__) if below is not None]


def _unsent(error: BaseException) -> bool:
    return any(type(cause).__name__ in ("ConnectError", "ConnectTimeout") for cause in _causes(error))


def _message(body: bytes) -> str:
    """What an error's body says: {"error": {"message": ...}}, {"message": ...}, or plain text."""
    try:
        found: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    if isinstance(found, str):
        return found
    return msgspec.json.encode(found).decode() if found else ""


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """RFC 9110: seconds, or a date; None where there is none, or nonsense."""
    word = headers.get("retry-after")
    if word is None:
        return None
    try:
        wait = float(word)
    except ValueError:
        try:
            wait = email.utils.parsedate_to_datetime(word).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, wait) if wait == wait else None
