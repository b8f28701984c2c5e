"""`tuned-spec actor check` against real endpoints, good and bad."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.actor.test_models import served_by
from workloads.endpoint import MODEL, Answer, Behave, Echo, Endpoint, Fail, Hang, Say

KEY = "sk-fedcba9876543210"
GOOD = Say('{"verdict": "confirm", "reason": "it works"}')
both = pytest.mark.parametrize("protocol", ["openai", "anthropic"])


def always(answer: Answer) -> Behave:
    return lambda asked: answer


def written(place: Path, url: str, protocol: str = "openai", more: str = "", model: str = MODEL) -> Path:
    key = place / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    file = place / "actor.yaml"
    file.write_text(
        f"version: 1\nmodel:\n  provider: {protocol}\n  endpoint: {url}\n  name: {model}\n"
        f"  key_file: {key}\n  timeout: 1s\n  tries: 1\n{more}"
    )
    return file


def command(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tuned_spec", *words], capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr
    assert KEY not in done.stdout + done.stderr
    return done


def findings(file: Path, code: int) -> dict[str, tuple[bool | None, str]]:
    done = command("actor", "check", "--json", "--actor", str(file))
    assert done.returncode == code, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["ok"] is (code == 0)
    return {finding["about"]: (finding["ok"], finding["what"]) for finding in document["findings"]}


@both
def test_all_is_well(tmp_path: Path, protocol: str) -> None:
    with Endpoint(always(GOOD), key=KEY) as endpoint:
        url = endpoint.url(protocol)
        found = findings(written(tmp_path, url, protocol, "prices: {input: 3, output: 15}\n"), 0)
    assert [*found] == [
        *("config", "model", "key", "address", "TLS", "reply", "structured", "tokens", "latency", "price")
    ]
    (asked,) = endpoint.asked
    assert asked.schema is not None
    assert f"{asked.tokens} in" in found["tokens"][1]
    assert "6000 tokens in and 600 out comes to 0.0270" in found["price"][1]
    assert found["structured"] == (True, "the reply is as asked for (enforced by the endpoint)")


def test_in_words(tmp_path: Path) -> None:
    with Endpoint(always(GOOD), key=KEY) as endpoint:
        done = command("actor", "check", "--actor", str(written(tmp_path, endpoint.url())))
    assert done.returncode == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert " ok " in lines["reply"]
    assert "it stays on this host" in lines["TLS"]


@both
@pytest.mark.parametrize(
    ("answer", "about", "said"),
    [
        (Fail(401, "bad"), "reply", "check key_file"),
        (Echo(403), "reply", "what the account and the key are allowed"),
        (Fail(429, "later"), "reply", "asked too often"),
        (Hang(), "reply", "no whole answer within 1 s"),
        (Say("Sure! I confirm."), "structured", "is not the JSON that was asked for, it starts with 'Sure!"),
        (Say('{"verdict": "maybe", "reason": ""}'), "structured", "try another `structured`"),
        (Say("", finish="filter"), "reply", "content filter"),
    ],
    ids=["401", "403", "429", "hang", "prose", "wrong", "filter"],
)
def test_what_is_wrong_with_the_reply(
    tmp_path: Path, protocol: str, answer: Answer, about: str, said: str
) -> None:
    with Endpoint(always(answer)) as endpoint:
        found = findings(written(tmp_path, endpoint.url(protocol), protocol), 1)
    assert found[about][0] is False
    assert said in found[about][1]
    assert found["address"][0] is True


def test_an_endpoint_without_structured_replies(tmp_path: Path) -> None:
    with Endpoint(always(GOOD), plain_only=True) as endpoint:
        found = findings(written(tmp_path, endpoint.url()), 1)
        assert "say `structured: none`" in found["structured"][1]
        file = written(tmp_path, endpoint.url())
        file.write_text(file.read_text() + "  structured: none\n")
        assert findings(file, 0)["structured"] == (True, "the reply is as asked for (by the model alone)")


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with Endpoint(always(GOOD), models=("small", "large")) as endpoint:
        found = findings(written(tmp_path, endpoint.url()), 1)
    assert found["reply"][1].endswith("it has small, large")


def test_nobody_listens(tmp_path: Path) -> None:
    with Endpoint(always(GOOD)) as endpoint:
        url = endpoint.url()
    found = findings(written(tmp_path, url), 1)
    assert "connection refused" in found["address"][1]
    assert "reply" not in found


@pytest.mark.parametrize("known", [True, False])
def test_certificates(tmp_path: Path, known: bool) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with Endpoint(always(GOOD), tls=served_by(ca.issue_cert("127.0.0.1"))) as endpoint:
        file = written(tmp_path, endpoint.url())
        if known:
            file.write_text(file.read_text() + f"  ca_file: {tmp_path}/ca.pem\n")
            assert "TLSv1.3, its certificate is trusted by" in findings(file, 0)["TLS"][1]
        else:
            assert "its certificate is not trusted" in findings(file, 1)["address"][1]


def test_the_speculator_is_tried_as_well(tmp_path: Path) -> None:
    with Endpoint(always(GOOD)) as endpoint:
        more = f"speculator: {{provider: openai, endpoint: '{endpoint.url()}', name: absent}}\n"
        done = command("actor", "check", "--actor", str(written(tmp_path, endpoint.url(), more=more)))
    assert done.returncode == 1
    assert len(endpoint.asked) == 2
    assert f"it has {MODEL}" in done.stdout


def test_errors_of_the_file_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "actor.yaml"
    file.write_text(f"version: 1\nmodel:\n  key: {KEY}\n")
    done = command("actor", "check", "--actor", str(file))
    assert done.returncode == 1
    assert f"{file}:3: model.key: " in done.stdout
    done = command("actor", "check", "--json", "--actor", str(file))
    document = json.loads(done.stdout)
    assert (done.returncode, document["ok"]) == (1, False)
    assert {problem["line"] for problem in document["problems"]} == {3}


def test_no_file_at_all(tmp_path: Path) -> None:
    done = command("actor", "check", "--actor", str(tmp_path / "none.yaml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no such file" in done.stderr
    done = command("actor", "check", "--root", str(tmp_path))
    assert done.returncode == 2
    assert "there is no actor.yaml" in done.stderr
