"""actor.yaml: what it comes to, and every error with its place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuned_spec.actor.config import Budget, Config, ModelConfig, Prices, Review, load, read_key
from tuned_spec.errors import ActorError

MODEL = "version: 1\nmodel:\n  provider: openai\n  endpoint: http://127.0.0.1:8080/v1\n  name: m\n"


def written(place: Path, text: str, mode: int = 0o644) -> Path:
    file = place / "actor.yaml"
    file.write_text(text)
    file.chmod(mode)
    return file


def key(place: Path, text: str = "sk-1\n", mode: int = 0o600) -> Path:
    file = place / "key"
    file.write_text(text)
    file.chmod(mode)
    return file


def said(place: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ActorError) as caught:
        load(written(place, text), environ)
    return [str(problem).removeprefix(f"{place}/") for problem in caught.value.problems]


def test_the_whole_of_it(tmp_path: Path) -> None:
    text = f"""
version: 1
model:
  provider: anthropic
  endpoint: https://llm.example.com
  name: large
  key_file: {key(tmp_path)}
  timeout: 90s
  tries: 2
  reply_tokens: 2000
  structured: json
  proxy: http://proxy.example.com:3128
speculator:
  {{provider: openai, endpoint: "http://localhost:8080/v1", name: small, prices: {{input: 0, output: 0}}}}
budget: {{tokens_an_hour: 50000, tokens_a_day: 200000, money_an_hour: 0.5, money_a_day: 2}}
prices: {{input: 3, output: 15}}
review: {{keep: model, probes: 4, time: 2m}}
notify: [/usr/bin/notify, --urgent]
"""
    assert load(written(tmp_path, text)) == Config(
        ModelConfig(
            provider="anthropic",
            endpoint="https://llm.example.com",
            name="large",
            key_file=str(tmp_path / "key"),
            timeout_s=90.0,
            tries=2,
            reply_tokens=2000,
            structured="json",
            proxy="http://proxy.example.com:3128",
            prices=Prices(3.0, 15.0),
        ),
        ModelConfig(provider="openai", endpoint="http://localhost:8080/v1", name="small"),
        Budget(50_000, 200_000, 0.5, 2.0),
        Review("model", 4, 120.0),
        ("/usr/bin/notify", "--urgent"),
    )


def test_what_is_not_said(tmp_path: Path) -> None:
    assert load(written(tmp_path, "version: 1\n")) == Config()
    config = load(written(tmp_path, MODEL))
    assert config.model == ModelConfig(provider="openai", endpoint="http://127.0.0.1:8080/v1", name="m")
    assert config.review.time_s == 3 * config.model.timeout_s
    assert load(written(tmp_path, MODEL + "  timeout: 10m\n")).review.time_s == 600.0


BASE = 5  # lines of MODEL
WRONG: list[tuple[str, str, str]] = [
    # what stands below MODEL's lines (or, from the margin on, after them), the place, and what is said of it
    ("nonsense: 1", f"{BASE + 1}: nonsense", "unknown key; keys here: version, model"),
    ("  tiemout: 3s", f"{BASE + 1}: model.tiemout", "unknown key; did you mean timeout?"),
    ("  timeout: 3", f"{BASE + 1}: model.timeout", "is not a time"),
    ("  timeout: 20m", f"{BASE + 1}: model.timeout", "outside 0.05s to 600s"),
    ("  timeout:", f"{BASE + 1}: model.timeout", "has no value"),
    ("  tries: 0", f"{BASE + 1}: model.tries", "outside 1 to 10"),
    ("  tries: 1.5", f"{BASE + 1}: model.tries", "is not a whole number"),
    ("  reply_tokens: [1]", f"{BASE + 1}: model.reply_tokens", "is not one value"),
    ("  structured: xml", f"{BASE + 1}: model.structured", "choose schema, json, none"),
    (
        "  key: sk-very-secret",
        f"{BASE + 1}: model.key",
        "put it into a file of mode 600 and say key_file: PATH",
    ),
    ("  key_file: key", f"{BASE + 1}: model.key_file", "is not an absolute path"),
    ("  key_file: /nowhere/key", f"{BASE + 1}: model.key_file", "cannot be read: No such file"),
    ("  key_file: /dev", f"{BASE + 1}: model.key_file", "cannot be read: Is a directory"),
    ("  key_file: /dev/null", f"{BASE + 1}: model.key_file", "is not a regular file"),
    ("  credential: a/../b", f"{BASE + 1}: model.credential", "is not a credential's name"),
    ("  credential: llm", f"{BASE + 1}: model.credential", "LoadCredential=llm:PATH"),
    ("  credential: llm\n  key_file: /k", f"{BASE + 1}: model.credential", "a key from two places"),
    ("  ca_file: /nowhere/ca.pem", f"{BASE + 1}: model.ca_file", "cannot be read"),
    ("  proxy: socks5://x", f"{BASE + 1}: model.proxy", "is not an http or https URL"),
    ("  insecure: maybe", f"{BASE + 1}: model.insecure", "write yes or no"),
    ("  prices: {input: -1}", f"{BASE + 1}: model.prices.input", "is negative"),
    ("prices: {input: 3$}", f"{BASE + 1}: prices.input", "is not a number"),
    ("budget: {tokens_a_day: -1}", f"{BASE + 1}: budget.tokens_a_day", "outside 0"),
    ("budget: {tokens_a_week: 1}", f"{BASE + 1}: budget.tokens_a_week", "unknown key"),
    ("budget: {money_a_day: 1}", f"{BASE + 1}: budget.money_a_day", "without prices nothing costs money"),
    ("budget: 5", f"{BASE + 1}: budget", "is not a mapping"),
    ("review: {keep: always}", f"{BASE + 1}: review.keep", "choose both, evidence, model"),
    ("review: {probes: 99}", f"{BASE + 1}: review.probes", "outside 0 to 32"),
    ("review: {time: 1h}", f"{BASE + 1}: review.time", "outside 0.1s to 600s"),
    ("notify: /bin/true", f"{BASE + 1}: notify", "is not a list"),
    ("notify: []", "", "is an empty list"),
    ("speculator: {name: x}", f"{BASE + 1}: speculator.provider", "is not given; which protocol"),
    ("speculator: {provider: x, endpoint: y, name: z}", f"{BASE + 1}: speculator.provider", "choose openai"),
    ("model: {}", f"{BASE + 1}: 'model'", "is here twice"),
    ("a: &x 1", f"{BASE + 1}: yaml", "an anchor"),
]


@pytest.mark.parametrize(("more", "place", "what"), WRONG, ids=[w[0].split("\n")[0].strip() for w in WRONG])
def test_each_error_has_its_place_and_says_what_to_do(
    tmp_path: Path, more: str, place: str, what: str
) -> None:
    problems = said(tmp_path, MODEL + more + "\n")
    found = [problem for problem in problems if problem.startswith(f"actor.yaml:{place}") and what in problem]
    assert found, problems
    assert ";" in found[0]  # what to do
    assert "sk-very-secret" not in "".join(problems)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("127.0.0.1:8080", "is not an http or https URL"),
        ("ftp://x/", "is not an http or https URL"),
        ("http://", "is not an http or https URL"),
        ("http://x:99999/", "is not a URL"),
        ("http://[::1", "is not a URL"),
        ("https://user:sk-very-secret@x/v1", "a user or a password in it"),
        ("https://x/v1?key=sk-very-secret", "behind the path"),
    ],
)
def test_endpoints_that_are_none(tmp_path: Path, url: str, what: str) -> None:
    problems = said(tmp_path, MODEL.replace("http://127.0.0.1:8080/v1", f'"{url}"'))
    assert any(problem.startswith("actor.yaml:4: model.endpoint") and what in problem for problem in problems)
    assert "sk-very-secret" not in "".join(problems)


@pytest.mark.parametrize(
    ("url", "more", "refused"),
    [
        ("http://llm.example.com/v1", "", True),
        ("http://192.0.2.1/v1", "", True),
        ("http://localhost.example.com/v1", "", True),
        ("http://llm.example.com/v1", "  insecure: yes\n", False),
        ("https://llm.example.com/v1", "", False),
        ("http://127.0.0.2:8080/v1", "", False),
        ("http://[::1]:8080/v1", "", False),
        ("http://localhost/v1", "", False),
        ("http://localhost/v1", "  proxy: http://127.0.0.1:3128\n", False),
        ("http://localhost/v1", "  proxy: http://proxy.example.com:3128\n", True),
        ("https://llm.example.com/v1", "  proxy: http://proxy.example.com:3128\n", False),
    ],
)
def test_a_key_is_not_sent_in_the_clear(tmp_path: Path, url: str, more: str, refused: bool) -> None:
    text = MODEL.replace("http://127.0.0.1:8080/v1", f'"{url}"')
    assert load(written(tmp_path, text)).model  # without a key nothing is lost
    text += f"  key_file: {key(tmp_path)}\n{more}"
    if refused:
        assert "would send the key in the clear; use https" in said(tmp_path, text)[0]
    else:
        assert load(written(tmp_path, text)).model


@pytest.mark.parametrize(
    ("content", "mode", "what"),
    [
        ("", 0o600, "is empty; put the key into it"),
        ("\n \n", 0o600, "is empty; put the key into it"),
        ("two words", 0o600, "holds something else than a key"),
        ("a\nb\n", 0o600, "holds something else than a key"),
        ("schlüssel", 0o600, "holds something else than a key"),
        ("k" * 9000, 0o600, "holds something else than a key"),
        ("sk-1", 0o640, "others may read"),
        ("sk-1", 0o604, "chmod 600"),
    ],
)
def test_keys_that_are_none_or_everybodys(tmp_path: Path, content: str, mode: int, what: str) -> None:
    file = key(tmp_path, content, mode)
    (problem,) = said(tmp_path, f"{MODEL}  key_file: {file}\n")
    assert problem.startswith("actor.yaml:6: model.key_file: ")
    assert what in problem


def test_a_fifo_for_a_key_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key", 0o600)
    (problem,) = said(tmp_path, f"{MODEL}  key_file: {tmp_path}/key\n")
    assert "is not a regular file" in problem


def test_a_credential_is_systemds_file(tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    (tmp_path / "llm").write_text("sk-2\n")
    text = MODEL + "  credential: llm\n"
    model = load(written(tmp_path, text), environ).model
    assert model
    assert read_key(model, environ) == "sk-2"
    assert "sk-2" not in repr(model)
    (tmp_path / "llm").unlink()
    assert "cannot be read" in said(tmp_path, text, **environ)[0]


def test_all_errors_come_at_once_in_order(tmp_path: Path) -> None:
    text = "model: {provider: x, timeout: never, key: y}\nbudget: []\nfoo: 1\n"
    problems = said(tmp_path, text)
    places = [problem.split(": ")[1] for problem in problems]
    assert set(places) >= {
        *("version", "foo", "budget", "model.key", "model.provider", "model.endpoint", "model.name"),
        "model.timeout",
    }
    lines = [int(problem.split(":")[1]) for problem in problems]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is empty"),
        ("[]", "is not a mapping"),
        ("version: 2", "is not known here"),
        ("version: 1\n\tmodel: x", "yaml: "),
        ("\x00", "control character"),
        ("a" * 300_000, "larger than"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, what: str) -> None:
    assert any(what in problem for problem in said(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ActorError, match="cannot be read: No such file"):
        load(tmp_path / "actor.yaml")


def test_it_is_light_enough_for_the_root_daemon() -> None:
    program = (
        "import sys, tuned_spec.actor.config;"
        "print({'httpx2', 'openai', 'anthropic', 'numpy', 'asyncio', 'ssl'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
