"""OpenAI's chat completions, which nearly every other endpoint speaks as well, through the vendor's client.

The client builds and sends the request; what comes back is decoded here, strictly: its own objects are made
without a check, and would fail wherever they are used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx2
import msgspec
import openai

from tuned_spec.actor.config import ModelConfig
from tuned_spec.actor.flow import Consult
from tuned_spec.actor.outcome import Said, Trouble, decoded, of_connection, of_rubbish, of_status
from tuned_spec.actor.wire import NO_KEY


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str | None = None
    usage: _Usage | None = None


class _Listed(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Listed]


class Speaker:
    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        # Newer models of OpenAI's take the second alone, older servers the first alone.
        self._most = "max_tokens"

    async def say(self, http: httpx2.AsyncClient, consult: Consult, form: str) -> Said:
        try:
            body = await self._complete(http, consult, form)
        except Trouble as error:
            if error.status != 400 or "max_completion_tokens" not in error.what:
                raise
            self._most = "max_completion_tokens"
            body = await self._complete(http, consult, form)
        return _said(body)

    async def models(self, http: httpx2.AsyncClient) -> list[str]:
        try:
            response = await self._client(http).models.with_raw_response.list()
        except openai.APIStatusError as error:
            raise of_status(error.status_code, error.response.content, error.response.headers) from None
        except openai.APIConnectionError as error:
            raise of_connection(error) from None
        return [model.id for model in decoded(response.content, _List, "a list of models").data]

    async def _complete(self, http: httpx2.AsyncClient, consult: Consult, form: str) -> bytes:
        said: list[dict[str, str]] = [{"role": "system", "content": consult.system}]
        said += [{"role": turn.role, "content": turn.text} for turn in consult.said]
        more: dict[str, Any] = {self._most: consult.most_tokens}
        if form == "schema":
            described = {"name": "answer", "schema": consult.schema, "strict": _is_strict(consult.schema)}
            more["response_format"] = {"type": "json_schema", "json_schema": described}
        elif form == "json":
            more["response_format"] = {"type": "json_object"}
        create: Any = self._client(http).chat.completions.with_raw_response.create
        try:
            response = await create(model=self._config.name, messages=said, **more)
        except openai.APIStatusError as error:
            raise of_status(error.status_code, error.response.content, error.response.headers) from None
        except openai.APIConnectionError as error:
            raise of_connection(error) from None
        body: bytes = response.content
        return body

    def _client(self, http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            api_key=NO_KEY, base_url=self._config.endpoint, max_retries=0, timeout=None, http_client=http
        )


def _said(body: bytes) -> Said:
    reply = decoded(body, _Completion, "a chat completion")
    if not reply.choices:
        raise of_rubbish(body, "a chat completion")
    choice, usage = reply.choices[0], reply.usage or _Usage()
    text, trouble, again = choice.message.content or "", "", False
    # Some models think aloud before they answer, and some servers pass it on.
    text = re.sub(r"^\s*<think>.*?</think>\s*", "", text, flags=re.DOTALL)
    if choice.message.refusal:
        trouble = f"the model refused: {choice.message.refusal}"
    elif choice.finish_reason == "content_filter":
        trouble = "the endpoint's content filter held the reply back"
    elif choice.finish_reason == "length":
        trouble, again = "the reply was cut off at its largest length: raise reply_tokens", True
    elif not text.strip():
        trouble, again = "the reply is empty", True
    return Said(text, reply.model or "", trouble, again, usage.prompt_tokens, usage.completion_tokens)


def _is_strict(schema: object) -> bool:
    """Whether OpenAI would enforce it: each object names all its keys as required, and allows no other."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, Mapping):
        return True
    closed = schema.get("type") != "object" or (
        schema.get("additionalProperties") is False
        and set(schema.get("required", ())) == set(schema.get("properties", ()))
    )
    return closed and all(map(_is_strict, schema.values()))
