"""actor.yaml -> what the actor is to do, or every error at once with file, line and key.

Owns the file's keys and their meaning, and how a key to an endpoint is kept: in a file of its own that only
its owner reads, or as systemd's credential; never in this file, a message, a record or a log. Light enough
for the command line and the root daemon: no HTTP, no vendor's library.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from tuned_spec.errors import ActorError
from tuned_spec.model import Frozen
from tuned_spec.policy import units
from tuned_spec.policy.document import Items, Node, read, shown
from tuned_spec.policy.reader import Reader
from tuned_spec.policy.units import Misfit

LONGEST_REVIEW_S = 600.0  # the daemon makes no lease longer than that for a review
MAX_KEY_BYTES = 8192
TOP = ("version", "model", "speculator", "budget", "prices", "review", "notify")
PROVIDERS = ("openai", "anthropic")
STRUCTURED = ("schema", "json", "none")
KEEP = ("both", "evidence", "model")

T = TypeVar("T")


class Prices(Frozen, frozen=True):
    """Of a million tokens, in any currency: all money is in that one."""

    input: float = 0.0
    output: float = 0.0

    def of(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


class ModelConfig(Frozen, frozen=True):
    """One model behind one endpoint. `timeout_s` is for one question with all its tries."""

    provider: str  # one of PROVIDERS: which protocol it speaks
    endpoint: str  # http(s) URL, as the vendor's own client takes it
    name: str
    key_file: str = ""
    credential: str = ""  # a file in $CREDENTIALS_DIRECTORY
    timeout_s: float = 60.0
    tries: int = 3
    reply_tokens: int = 1024
    structured: str = "schema"
    ca_file: str = ""  # trusted instead of the system's authorities
    proxy: str = ""  # the environment's are not used
    insecure: bool = False  # a key may go over plain http
    prices: Prices = Prices()


class Budget(Frozen, frozen=True):
    """What may be spent in any hour and any day; None is without bound."""

    tokens_an_hour: int | None = None
    tokens_a_day: int | None = None
    money_an_hour: float | None = None
    money_a_day: float | None = None


class Review(Frozen, frozen=True):
    """How a model's word counts. `time_s`: how long a review may take after the measurements.

    `often`: judged so many times within `remember_s`, a change is not asked about again; 0 asks always.
    """

    keep: str = "both"  # one of KEEP
    probes: int = 6  # most a case
    time_s: float = 180.0
    often: int = 2
    remember_s: float = 7 * 86_400.0


class Config(Frozen, frozen=True):
    """Without a model the embedded trial alone judges."""

    model: ModelConfig | None = None
    speculator: ModelConfig | None = None  # a small fast one that proposes
    budget: Budget = Budget()
    review: Review = Review()
    notify: tuple[str, ...] = ()  # program and arguments


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration, its keys' files checked but not kept. ActorError with all that is wrong."""
    reader = _Reader(str(path), environ)
    config = reader.load(path)
    if reader.problems:
        raise ActorError(tuple(sorted(reader.problems, key=lambda p: p.line)))
    return config


def named(words: Mapping[str, str]) -> ModelConfig:
    """A model as a command line names it: keys as in the file, `provider`, `endpoint` and `name` at least.
    Misfit says what is wrong with a value."""
    given = {name: _WORDS[name](word) for name, word in words.items()}
    model = ModelConfig(**given)  # type: ignore[arg-type]
    if model.key_file and exposed(model):
        raise Misfit(f"{model.endpoint} would get the key in the clear", "use https")
    return model


def read_key(model: ModelConfig, environ: Mapping[str, str] = os.environ) -> str:
    """The key, or "" where none is configured. Misfit says what is wrong with its file."""
    if model.credential:
        directory = environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise Misfit(
                "no credential is given to this process",
                f"start it from a unit with LoadCredential={model.credential}:PATH, or use key_file",
            )
        return _key_in(Path(directory) / model.credential, private=False)  # systemd's: mode and owner are its
    return _key_in(Path(model.key_file), private=True) if model.key_file else ""


def _key_in(path: Path, private: bool) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hold us up
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise Misfit(f"{path} is not a regular file", "put the key, and nothing else, into one")
            if private and status.st_mode & 0o077:
                raise Misfit(f"others may read {path}", f"chmod 600 {path}, and replace the key")
            data = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise Misfit(f"{path} cannot be read: {error.strerror}", "check its name, owner and mode") from None
    key = data.decode("ascii", "replace").strip()
    if not key:
        raise Misfit(f"{path} is empty", "put the key into it")
    if len(data) > MAX_KEY_BYTES or not re.fullmatch(r"[!-~]+", key):
        raise Misfit(f"{path} holds something else than a key", "one line of plain characters without blanks")
    return key


class _Reader(Reader):
    def __init__(self, file: str, environ: Mapping[str, str]) -> None:
        super().__init__()
        self.file, self.environ = file, environ

    def load(self, path: Path) -> Config:
        if (tree := read(path, self.problem)) is None:
            if not self.problems:
                self.problem(1, "file", "is empty", "write at least `version: 1`")
            return Config()
        if (table := self.table(tree, "file")) is None:
            return Config()
        parts = self.known(table, "", TOP)
        if "version" not in parts:
            self.problem(table.line, "version", "is not given", "write `version: 1`")
        elif self.text(parts["version"], "version") not in (None, "1"):
            self.problem(parts["version"].line, "version", "is not known here", "write `version: 1`")
        prices = self.prices(parts["prices"], "prices", Prices()) if "prices" in parts else Prices()
        model = self.model(parts["model"], "model", prices) if "model" in parts else None
        return Config(
            model,
            self.model(parts["speculator"], "speculator", prices) if "speculator" in parts else None,
            self.budget(parts["budget"], model) if "budget" in parts else Budget(),
            self.review(parts.get("review"), model),
            self.command(parts["notify"], "notify") if "notify" in parts else (),
        )

    def model(self, node: Node, key: str, prices: Prices) -> ModelConfig | None:
        if (table := self.table(node, key)) is None:
            return None
        # An inline key gets a hint of its own, not the list of keys.
        if "key" in table.entries:
            what = "a key in a file that others read"
            self.problem(
                table.lines["key"],
                f"{key}.key",
                what,
                "put it into a file of mode 600 and say key_file: PATH",
            )
            del table.entries["key"]
        fields = (*(f for f in ModelConfig.__struct_fields__ if f != "timeout_s"), "timeout")
        parts = self.known(table, f"{key}.", fields)
        for name in ("provider", "endpoint", "name"):
            if name not in parts:
                self.problem(node.line, f"{key}.{name}", "is not given", _NEEDED[name])
        if "prices" in parts:
            prices = self.prices(parts["prices"], f"{key}.prices", prices)
        given = {
            name: self.one(parts, key, name, word)
            for name, word in _WORDS.items()
            if name in parts  # what is not given is as the struct has it
        }
        timeout = given.pop("timeout", None)
        given = {name: value for name, value in given.items() if value is not None}
        if timeout is not None:
            given["timeout_s"] = timeout
        wrong = not {"provider", "endpoint", "name"} <= given.keys()
        model = ModelConfig(**{"provider": "", "endpoint": "", "name": "", **given, "prices": prices})  # type: ignore[arg-type]
        if "key_file" in parts and "credential" in parts:
            what = "a key from two places"
            self.problem(parts["credential"].line, f"{key}.credential", what, "delete it, or key_file")
        elif place := next((n for n in ("key_file", "credential") if n in given), None):
            line, text = parts[place].line, getattr(model, place)
            self.understood(line, f"{key}.{place}", text, lambda: read_key(model, self.environ))
        if "ca_file" in given:
            line, name = parts["ca_file"].line, f"{key}.ca_file"
            self.understood(line, name, model.ca_file, lambda: _certificates(model.ca_file))
        if (model.key_file or model.credential) and not model.insecure and exposed(model):
            what = "would send the key in the clear"
            hint = "use https, or say `insecure: yes` if nobody can listen on the way"
            name = "endpoint" if in_the_clear(model.endpoint) else "proxy"
            self.problem(parts[name].line, f"{key}.{name}", what, hint)
        return None if wrong else model

    def prices(self, node: Node, key: str, default: Prices) -> Prices:
        found = self.numbers(node, key, {"input": _money, "output": _money})
        return Prices(found.get("input", default.input), found.get("output", default.output))

    def budget(self, node: Node, model: ModelConfig | None) -> Budget:
        words: dict[str, Callable[[str], float]] = {
            name: _tokens if name.startswith("tokens") else _money for name in Budget.__struct_fields__
        }
        found = self.numbers(node, "budget", words)
        money = sorted(name for name in found if name.startswith("money"))
        if money and model and model.prices == Prices():
            what = "without prices nothing costs money"
            self.problem(node.line, f"budget.{money[0]}", what, "say `prices: {input: X, output: X}`")
        return Budget(**found)  # type: ignore[arg-type]

    def review(self, node: Node | None, model: ModelConfig | None) -> Review:
        time_s = min(3 * model.timeout_s, LONGEST_REVIEW_S) if model else Review().time_s
        if node is None or (table := self.table(node, "review")) is None:
            return Review(time_s=time_s)
        parts = self.known(table, "review.", ("keep", "probes", "time", "often", "remember"))
        keep = self.one(parts, "review", "keep", _one_of(KEEP))
        probes = self.one(parts, "review", "probes", _whole(0, 32))
        time = self.one(parts, "review", "time", _seconds(0.1, LONGEST_REVIEW_S))
        often = self.one(parts, "review", "often", _whole(0, 100))
        remember_s = self.one(parts, "review", "remember", _seconds(1.0, 366 * 86_400.0))
        usual = Review()
        return Review(
            keep=keep or usual.keep,
            probes=usual.probes if probes is None else probes,
            time_s=time or time_s,
            often=usual.often if often is None else often,
            remember_s=remember_s or usual.remember_s,
        )

    def command(self, node: Node, key: str) -> tuple[str, ...]:
        words = [self.text(item, f"{key}[{n}]") for n, item in enumerate(self.items(node, key))]
        if not words and isinstance(node, Items):
            self.problem(node.line, key, "is an empty list", "write [PROGRAM, ARGUMENT...], or delete it")
        elif words and words[0] and not words[0].startswith("/"):
            self.problem(node.line, f"{key}[0]", "is not an absolute path", "write it from / on")
        return tuple(word for word in words if word is not None)

    def numbers(self, node: Node, key: str, words: Mapping[str, Callable[[str], T]]) -> dict[str, T]:
        """What was understood of a mapping of plain values."""
        if (table := self.table(node, key)) is None:
            return {}
        parts = self.known(table, f"{key}.", tuple(words))
        found = {name: self.one(parts, key, name, word) for name, word in words.items()}
        return {name: value for name, value in found.items() if value is not None}


# ---------------------------------------------------------------- what one value may be


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise Misfit(f"{shown(text)} is not one of them", f"choose {', '.join(words)}")
        return text

    return read


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not low <= (number := units.whole(text)) <= high:
            raise Misfit(f"{text} is outside {low} to {high}", "choose a number inside")
        return number

    return read


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not low <= (seconds := units.seconds(text)) <= high:
            raise Misfit(f"{text} is outside {low:g}s to {high:g}s", "choose a time inside")
        return seconds

    return read


def _tokens(text: str) -> int:
    return _whole(0, 10**12)(text)


def _money(text: str) -> float:
    if (value := units.plain(text)) < 0:
        raise Misfit(f"{text} is negative", "write an amount without currency, like 0.5")
    return value


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  raises on one that is none
    except ValueError as error:
        raise Misfit(f"{shown(text)} is not a URL: {error}", _NEEDED["endpoint"]) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or " " in text:
        raise Misfit(f"{shown(text)} is not an http or https URL", _NEEDED["endpoint"])
    if parts.username is not None or parts.password is not None:
        raise Misfit("has a user or a password in it", "delete it, and say key_file: PATH")
    if parts.query or parts.fragment:
        raise Misfit("has something behind the path", "delete what follows the ? or #")
    return text


def exposed(model: ModelConfig) -> bool:
    """Whether others may hear the key: https is a tunnel through a proxy, plain http is its to read."""
    plain = urlsplit(model.endpoint).scheme == "http"
    return in_the_clear(model.endpoint) or (plain and bool(model.proxy) and in_the_clear(model.proxy))


def in_the_clear(url: str) -> bool:
    """Whether others may listen: plain http to another host."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        return False
    try:
        return not ip_address(parts.hostname).is_loopback
    except ValueError:
        return parts.hostname != "localhost"


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise Misfit(f"{shown(text)} is not an absolute path", "write it from / on: the actor works there")
    return text


def _certificates(file: str) -> None:
    import ssl  # 2 MB, for those who name one

    try:
        ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        raise Misfit(f"{file} holds no certificate", "put the authority's into it, as PEM") from None
    except OSError as error:
        raise Misfit(f"{file} cannot be read: {error.strerror}", "check its name and mode") from None


def _file_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", text) or text in (".", ".."):
        raise Misfit(
            f"{shown(text)} is not a credential's name", "write the name in LoadCredential=NAME:PATH"
        )
    return text


def _switch(text: str) -> bool:
    if text not in ("yes", "no", "true", "false", "on", "off"):
        raise Misfit(f"{shown(text)} is not a switch", "write yes or no")
    return text in ("yes", "true", "on")


_NEEDED = {
    "provider": f"which protocol the endpoint speaks: {' or '.join(PROVIDERS)}",
    "endpoint": "write it like http://127.0.0.1:8080/v1 or https://llm.example.com/v1",
    "name": "the model's name as the endpoint knows it",
}
_WORDS: dict[str, Callable[[str], object]] = {
    "provider": _one_of(PROVIDERS),
    "endpoint": _url,
    "name": str,
    "key_file": _path,
    "credential": _file_name,
    "timeout": _seconds(0.05, LONGEST_REVIEW_S),
    "tries": _whole(1, 10),
    "reply_tokens": _whole(16, 100_000),
    "structured": _one_of(STRUCTURED),
    "ca_file": _path,
    "proxy": _url,
    "insecure": _switch,
}
