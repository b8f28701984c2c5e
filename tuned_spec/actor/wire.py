"""The HTTP below the vendors' clients: what may go out to an endpoint, and how much may come back.

The key is put on here, behind the client, so that no log, exception or repr of a vendor's library can hold
it. Nothing is followed elsewhere, nothing compressed is taken (a small bomb makes a large reply), and no
more than REPLY_LIMIT bytes are read. Must not know what is said, nor how often it is tried.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  what names of hosts are read with: else at the first one
import ssl
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import httpx2

from tuned_spec.actor.config import ModelConfig

REPLY_LIMIT = 1 << 20  # bytes of one reply
NO_KEY = "none"  # what the vendors' clients are given as their key: they insist on one
_KEY_HEADERS = ("authorization", "x-api-key")


class TooLarge(httpx2.ReadError):
    """The reply is larger than REPLY_LIMIT."""


class Compressed(httpx2.ReadError):
    """The reply is compressed, though that was ruled out."""


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > REPLY_LIMIT:
                raise TooLarge(f"more than {REPLY_LIMIT} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class Wire(httpx2.AsyncHTTPTransport):
    def __init__(self, tls: ssl.SSLContext, key: str, proxy: str) -> None:
        super().__init__(verify=tls, trust_env=False, proxy=proxy or None)
        self._key = key
        self._lines: list[Any] = []  # connections that were made, for those that nobody closes

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await super().__aexit__(exc_type, exc_value, traceback)
        for line in self._lines:  # one given up amid a TLS handshake is left open by what is below
            await line.aclose()

    async def _trace(self, event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._lines.append(info["return_value"])

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["accept-encoding"] = "identity"
        # A copy: the vendor's exceptions carry the request that they made.
        headers = request.headers.copy()
        for name in [name for name in headers if name.startswith("x-stainless-")]:
            del headers[name]  # the vendor's statistics about this host
        for name in _KEY_HEADERS:
            if name in headers:
                value = headers[name]
                del headers[name]
                if self._key:
                    headers[name] = value.replace(NO_KEY, self._key)
        sent = httpx2.Request(
            request.method,
            request.url,
            headers=headers,
            stream=request.stream,
            extensions={**request.extensions, "trace": self._trace},
        )
        response = await super().handle_async_request(sent)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise Compressed(response.headers["content-encoding"])
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_Bounded(response.stream),
            extensions=response.extensions,
        )


def trusted(model: ModelConfig) -> ssl.SSLContext:
    """The system's authorities, or the one file that is named instead. OSError if that cannot be used."""
    return ssl.create_default_context(cafile=model.ca_file or None)


def client(model: ModelConfig, key: str, tls: ssl.SSLContext) -> httpx2.AsyncClient:
    """For one exchange. No timeouts of its own: the caller's deadline is for all of it."""
    transport = Wire(tls, key, model.proxy)
    return httpx2.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, timeout=None)
