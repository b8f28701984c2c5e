"""Anthropic's messages through the vendor's client; what comes back is decoded here, strictly."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx2
import msgspec

from tuned_spec.actor.config import ModelConfig
from tuned_spec.actor.flow import Consult
from tuned_spec.actor.outcome import Said, decoded, of_connection, of_status
from tuned_spec.actor.wire import NO_KEY


class _Block(msgspec.Struct):
    type: str
    text: str = ""


class _Details(msgspec.Struct):
    explanation: str | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Message(msgspec.Struct):
    content: list[_Block]
    model: str | None = None
    stop_reason: str | None = None
    stop_details: _Details | None = None
    usage: _Usage | None = None


class _Listed(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Listed]


class Speaker:
    def __init__(self, config: ModelConfig) -> None:
        self._config = config

    async def say(self, http: httpx2.AsyncClient, consult: Consult, form: str) -> Said:
        said = [{"role": turn.role, "content": turn.text} for turn in consult.said]
        more: dict[str, Any] = {}
        if form == "schema":  # there is no form that is any JSON
            schema = anthropic.transform_schema(consult.schema)
            more["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        create: Any = self._client(http).messages.with_raw_response.create
        try:
            response = await create(
                model=self._config.name,
                system=consult.system,
                messages=said,
                max_tokens=consult.most_tokens,
                **more,
            )
        except anthropic.APIStatusError as error:
            raise of_status(error.status_code, error.response.content, error.response.headers) from None
        except anthropic.APIConnectionError as error:
            raise of_connection(error) from None
        return _said(await response.read())

    async def models(self, http: httpx2.AsyncClient) -> list[str]:
        try:
            response = await self._client(http).models.with_raw_response.list()
        except anthropic.APIStatusError as error:
            raise of_status(error.status_code, error.response.content, error.response.headers) from None
        except anthropic.APIConnectionError as error:
            raise of_connection(error) from None
        return [model.id for model in decoded(await response.read(), _List, "a list of models").data]

    def _client(self, http: httpx2.AsyncClient) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(
            api_key=NO_KEY,
            base_url=self._config.endpoint,
            max_retries=0,
            timeout=None,
            http_client=http,
        )


def _said(body: bytes) -> Said:
    reply = decoded(body, _Message, "a message")
    usage = reply.usage or _Usage()
    into = usage.input_tokens
    if into is not None:
        into += (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
    text, trouble, again = "".join(block.text for block in reply.content if block.type == "text"), "", False
    match reply.stop_reason:
        case "refusal":
            why = (reply.stop_details and reply.stop_details.explanation) or text
            trouble = (
                f"the model refused: {why}" if why else "the endpoint's content filter held the reply back"
            )
        case "max_tokens" | "model_context_window_exceeded":
            trouble, again = "the reply was cut off at its largest length: raise reply_tokens", True
        case _ if not text.strip():
            trouble, again = "the reply is empty", True
    return Said(text, reply.model or "", trouble, again, into, usage.output_tokens)
