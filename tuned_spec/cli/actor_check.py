"""`actor check`: one tiny question to the model, in the form that a review uses, and what came of it."""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import time
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from tuned_spec.actor.config import ModelConfig, Prices, in_the_clear, load, read_key
from tuned_spec.actor.flow import Consult, Reply, Said
from tuned_spec.actor.outcome import of_connection
from tuned_spec.cli import show
from tuned_spec.cli.actor import actor_file
from tuned_spec.errors import ActorError, UsageError
from tuned_spec.model import Frozen
from tuned_spec.policy.document import shown

SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": ["confirm", "reject"]},
        "reason": {"type": "string"},
    },
    "required": ["verdict", "reason"],
    "additionalProperties": False,
}
QUESTION = Consult(
    "You check that a connection works. Answer with one JSON object only, "
    'like {"verdict": "confirm", "reason": "it works"}.',
    (Said("user", 'Answer with the verdict "confirm" and a reason of at most five words.'),),
    SCHEMA,
    200,
)
REVIEW_TOKENS = (6000, 600)  # in and out of a review of one change: two questions of 3,000 at most


class Finding(Frozen, frozen=True):
    """One line. `ok` None: told for its own sake. `what` says what to do as well, if it is wrong."""

    about: str
    ok: bool | None
    what: str


def main(args: argparse.Namespace) -> int:
    file = actor_file(args)
    if file is None:
        raise UsageError("there is no actor.yaml; write one, and name it with --actor (docs/actor.md)")
    try:
        config = load(file)
    except ActorError as error:
        if args.json:
            show.json_out({"v": 1, "command": "actor", "ok": False, "problems": error.problems})
        else:
            print(error)
        return 1
    findings = [Finding("config", True, f"{file} is sound")]
    for name, model in (("model", config.model), ("speculator", config.speculator)):
        if model:
            findings += tried(name, model)
    if config.model is None:
        findings.append(Finding("model", None, "none is configured: trials alone judge"))
    if config.notify:
        findings.append(hook(config.notify[0]))
    ok = all(finding.ok is not False for finding in findings)
    if args.json:
        show.json_out({"v": 1, "command": "actor", "ok": ok, "file": str(file), "findings": findings})
    else:
        marks = {True: "ok", False: "WRONG", None: ""}
        print(show.table([(f.about, marks[f.ok], f.what) for f in findings]))
    return 0 if ok else 1


def hook(program: str) -> Finding:
    if not Path(program).is_file():
        return Finding("notify", False, f"{program} is not there: name a program by its whole path")
    if not os.access(program, os.X_OK):
        return Finding("notify", False, f"{program} cannot be run: chmod 755 {program}")
    return Finding("notify", True, f"{program} is there; it is not run now")


def tried(name: str, config: ModelConfig) -> list[Finding]:
    """From the outside in; what lies behind something that is wrong is not tried."""
    found = [Finding(name, None, f"{config.name} at {config.endpoint}, as {config.provider} speaks")]
    if config.key_file or config.credential:
        found.append(
            Finding("key", True, f"is in {config.key_file or f'the credential {config.credential}'}")
        )
    else:
        found.append(Finding("key", None, "none is configured, so none is sent"))
    try:
        found += way(config)
    except OSError as error:
        trouble = of_connection(error)
        return [*found, Finding("address", False, f"{_address(config)[0]}: {trouble.what}")]

    from tuned_spec.actor.models import Model  # and the vendor's client with it

    model = Model(config, read_key(config))
    return found + answered(config, model.ask(QUESTION), model.form)


def way(config: ModelConfig) -> list[Finding]:
    """To the endpoint and, with https, who it proves to be. OSError if there is none."""
    host, port, https = _address(config)
    if config.proxy:
        return [Finding("address", None, f"{host} is reached through {config.proxy}")]
    with socket.create_connection((host, port), config.timeout_s) as line:
        found = [Finding("address", True, f"{host} port {port} answers, at {line.getpeername()[0]}")]
        if not https:
            way = (
                "what is sent can be read on the way"
                if in_the_clear(config.endpoint)
                else "it stays on this host"
            )
            return [*found, Finding("TLS", None, f"none: {way}")]
        context = ssl.create_default_context(cafile=config.ca_file or None)
        with context.wrap_socket(line, server_hostname=host) as tls:
            days = (ssl.cert_time_to_seconds(str(tls.getpeercert()["notAfter"])) - time.time()) / 86400  # type: ignore[index]
            who = f"trusted by {config.ca_file}" if config.ca_file else "trusted by this host's authorities"
            what = f"{tls.version()}, its certificate is {who} and good for {days:.0f} days"
            return [*found, Finding("TLS", True, what)]


def _address(config: ModelConfig) -> tuple[str, int, bool]:
    parts = urlsplit(config.endpoint)
    https = parts.scheme == "https"
    return parts.hostname or "", parts.port or (443 if https else 80), https


def answered(config: ModelConfig, reply: Reply, form: str) -> list[Finding]:
    if reply.error:
        return [Finding("reply", False, reply.error)]
    prices = config.prices
    found = [
        Finding("reply", True, f"{reply.model} answers"),
        structured(config.structured, form, reply.text),
        Finding("tokens", None, f"{reply.tokens_in} in, {reply.tokens_out} out for this question"),
        Finding("latency", None, f"{reply.seconds:.2f} s; configured are {config.timeout_s:g} s at most"),
    ]
    if prices == Prices():
        return [*found, Finding("price", None, "no prices are configured, so nothing is counted as money")]
    most = prices.of(*REVIEW_TOKENS)
    what = (
        f"{prices.of(reply.tokens_in, reply.tokens_out):.6f} for this; a review of {REVIEW_TOKENS[0]} tokens"
    )
    return [*found, Finding("price", None, f"{what} in and {REVIEW_TOKENS[1]} out comes to {most:.4f}")]


def structured(wanted: str, form: str, text: str) -> Finding:
    """Whether the reply has the form that it was asked for in."""
    about = "structured"
    if wanted != "none" and form == "none":
        what = f"the endpoint refuses `structured: {wanted}`; it was asked without"
        return Finding(about, False, f"{what}: say `structured: none`, and each review saves a question")
    try:
        msgspec.json.decode(text, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        start = shown(text)
        return Finding(
            about,
            False,
            f"the reply is not the JSON that was asked for, it starts with {start}: "
            "try another `structured` (schema, json, none), or a model that follows instructions",
        )
    how = {"schema": "enforced by the endpoint", "json": "JSON by the endpoint, its keys by the model"}
    return Finding(about, True, f"the reply is as asked for ({how.get(form, 'by the model alone')})")


class _Answer(msgspec.Struct):
    verdict: Literal["confirm", "reject"]
    reason: str
