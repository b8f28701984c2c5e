"""A question over real HTTP to an endpoint that answers well, badly, late, or not at all."""

from __future__ import annotations

import datetime
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from tests.actor.asking import KEY, PROTOCOLS, QUESTION, SCHEMA, configured, model
from tuned_spec.actor.budget import Purse
from tuned_spec.actor.config import Budget, Prices
from tuned_spec.actor.flow import Consult, Said
from tuned_spec.actor.models import Call, Model
from workloads.endpoint import (
    MODEL,
    SCRIPTS,
    Answer,
    Asked,
    Behave,
    Cut,
    Drip,
    Echo,
    Endpoint,
    Fail,
    Hang,
    Huge,
    Raw,
    Say,
    in_turn,
    redirect,
)

GOOD = '{"verdict": "confirm", "why": "faster"}'
both = pytest.mark.parametrize("protocol", PROTOCOLS)


def always(answer: Answer) -> Behave:
    return lambda asked: answer


@both
def test_a_reply_with_its_tokens_and_its_price(protocol: str) -> None:
    with Endpoint(always(Say(GOOD)), key=KEY) as endpoint:
        reply = model(endpoint, protocol, prices=Prices(2.0, 10.0)).ask(QUESTION)
    (asked,) = endpoint.asked
    assert (reply.text, reply.error, reply.model) == (GOOD, "", MODEL)
    assert (asked.system, asked.said) == (QUESTION.system, ("Is it good?",))
    assert asked.body["max_tokens"] == 100
    assert reply.tokens_in == asked.tokens
    assert reply.cost == pytest.approx((reply.tokens_in * 2 + reply.tokens_out * 10) / 1e6)
    assert 0 < reply.seconds < 2


@both
def test_a_conversation_is_told_in_order(protocol: str) -> None:
    said = (Said("user", "one"), Said("assistant", "two"), Said("user", "three"))
    with Endpoint(always(Say(GOOD))) as endpoint:
        model(endpoint, protocol).ask(Consult("be brief", said, SCHEMA))
    assert [turn.text for turn in said] == list(endpoint.asked[0].said)


@both
def test_tokens_that_are_not_told_are_estimated(protocol: str) -> None:
    with Endpoint(always(Say(GOOD, usage=False))) as endpoint:
        reply = model(endpoint, protocol).ask(QUESTION)
    assert reply.tokens_in >= endpoint.asked[0].tokens
    assert reply.tokens_out >= len(GOOD) / 4


@both
@pytest.mark.parametrize(("structured", "wanted"), [("schema", True), ("json", False), ("none", False)])
def test_a_schema_is_sent_if_so_configured(protocol: str, structured: str, wanted: bool) -> None:
    with Endpoint(always(Say(GOOD))) as endpoint:
        model(endpoint, protocol, structured=structured).ask(QUESTION)
    asked = endpoint.asked[0]
    if wanted:
        assert asked.schema is not None
        assert asked.schema["properties"].keys() == {"verdict", "why"}
    elif structured == "json" and protocol == "openai":
        assert asked.schema == {}
    else:
        assert asked.schema is None


@both
def test_an_endpoint_without_structured_replies_is_asked_once_for_one(protocol: str) -> None:
    with Endpoint(always(Say(GOOD)), plain_only=True) as endpoint:
        asker = model(endpoint, protocol)
        assert asker.ask(QUESTION).text == GOOD
        assert asker.ask(QUESTION).text == GOOD
    assert [asked.schema is None for asked in endpoint.asked] == [False, True, True]
    assert asker.form == "none"


@both
def test_a_request_refused_for_another_reason_does_not_cost_the_schema(protocol: str) -> None:
    with Endpoint(in_turn(Fail(400), Fail(400), Say(GOOD))) as endpoint:
        asker = model(endpoint, protocol, tries=1)
        assert "(400)" in asker.ask(QUESTION).error
        assert asker.ask(QUESTION).text == GOOD
    assert endpoint.asked[-1].schema is not None


def test_a_model_that_takes_only_the_newer_name_of_a_limit_is_given_that() -> None:
    def behave(asked: Asked) -> Answer:
        if "max_tokens" in asked.body:
            return Fail(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return Say(GOOD)

    with Endpoint(behave) as endpoint:
        asker = model(endpoint, "openai")
        assert asker.ask(QUESTION).text == GOOD
        assert asker.ask(QUESTION).text == GOOD
    assert [asked.body.get("max_completion_tokens") for asked in endpoint.asked] == [None, 100, 100]
    assert endpoint.asked[-1].schema is not None


def test_thinking_aloud_is_no_part_of_the_answer() -> None:
    with Endpoint(always(Say(f"<think>\nhm { {} } ...\n</think>\n\n{GOOD}"))) as endpoint:
        assert model(endpoint, "openai").ask(QUESTION).text == GOOD


# --------------------------------------------------------------------------- what goes wrong

WRONG: list[tuple[str, Answer, str, bool, int]] = [
    # name, what the endpoint does, words of the error, whether it may do better, requests of three tries
    ("refusal", Say("I cannot.", finish="refusal"), "the model refused: I cannot.", False, 1),
    ("filter", Say("", finish="filter"), "content filter", False, 1),
    ("cut short", Say('{"verdict', finish="length"), "raise reply_tokens", True, 1),
    ("empty", Say(" \n"), "empty", True, 3),
    ("html", Raw(b"<html>welcome", headers={"Content-Type": "text/html"}), "'<html>welcome'", True, 3),
    ("no bytes", Raw(b""), "it starts with ''", True, 3),
    ("not utf-8", Raw(b"\xff\xfe{}"), "the endpoint's answer is not", True, 3),
    ("null", Raw(b"null"), "the endpoint's answer is not", True, 3),
    ("wrong types", Raw(b'{"choices": [3], "content": [3]}'), "the endpoint's answer is not", True, 3),
    ("no choice", Raw(b'{"choices": [], "content": []}'), "", True, 3),
    ("deep", Raw(b"[" * 100_000), "the endpoint's answer is not", True, 3),
    ("401", Fail(401, "bad key"), "check key_file or credential", False, 1),
    ("403", Fail(403), "may not do this", False, 1),
    ("413", Fail(413), "too large for the endpoint (413)", False, 1),
    ("429", Fail(429, "slow down", {"Retry-After": "0.01"}), "(429): slow down", True, 3),
    ("500", Fail(500, "oops"), "(500): oops", True, 3),
    ("503", Fail(503), "(503)", True, 3),
    ("529", Fail(529), "overloaded (529)", True, 3),
    ("an error in no form", Raw(b"bad gateway", 502), "(502): bad gateway", True, 3),
    ("half a reply", Cut(), "the connection broke", True, 3),
    ("huge", Huge(2 << 20), "too large", True, 3),
    ("bomb", Huge(4 << 20, bomb=True), "compressed (gzip)", False, 1),
    ("redirect", redirect("http://192.0.2.1/v1"), "a redirect to http://192.0.2.1/v1", False, 1),
]


@both
@pytest.mark.parametrize(
    ("answer", "said", "again", "requests"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_each_failure_in_plain_words(
    protocol: str, answer: Answer, said: str, again: bool, requests: int
) -> None:
    with Endpoint(always(answer)) as endpoint:
        reply = model(endpoint, protocol, timeout_s=1.0, structured="none").ask(QUESTION)
    assert said in reply.error
    assert reply.error.isprintable()
    assert reply.error
    assert reply.again is again
    assert len(endpoint.asked) == requests


@both
def test_a_model_that_is_not_there_names_those_that_are(protocol: str) -> None:
    with Endpoint(always(Say(GOOD)), models=("small", "large")) as endpoint:
        reply = model(endpoint, protocol, name="medium").ask(QUESTION)
    assert "no such model or path" in reply.error
    assert reply.error.endswith("it has small, large")
    assert not reply.again


@both
def test_trouble_that_passes_is_not_seen(protocol: str) -> None:
    with Endpoint(in_turn(Fail(500), Cut(), Say(GOOD))) as endpoint:
        reply = model(endpoint, protocol).ask(QUESTION)
    assert (reply.text, reply.error, len(endpoint.asked)) == (GOOD, "", 3)


@both
def test_a_wish_to_wait_is_kept(protocol: str) -> None:
    with Endpoint(in_turn(Fail(429, headers={"Retry-After": "0.3"}), Say(GOOD))) as endpoint:
        reply = model(endpoint, protocol).ask(QUESTION)
    assert reply.text == GOOD
    assert reply.seconds >= 0.3


@both
@pytest.mark.parametrize("wish", ["60", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_one_that_is_longer_than_what_is_left_ends_it(protocol: str, wish: str) -> None:
    with Endpoint(always(Fail(429, headers={"Retry-After": wish}))) as endpoint:
        reply = model(endpoint, protocol).ask(QUESTION)
    assert len(endpoint.asked) == 1
    assert "it asks to wait" in reply.error
    assert reply.again


@pytest.mark.parametrize("wish", ["soon", "nan", "-5", ""])
def test_a_wish_that_is_none_is_ignored(wish: str) -> None:
    with Endpoint(in_turn(Fail(429, headers={"Retry-After": wish}), Say(GOOD))) as endpoint:
        assert model(endpoint, "openai").ask(QUESTION).text == GOOD


@both
@pytest.mark.parametrize(
    "answer",
    [Hang(), Say(GOOD, wait_s=60), Drip(GOOD, 0.02), Drip(GOOD, 0.02, from_start=True)],
    ids=["hang", "slow", "drip", "drip from the first byte on"],
)
def test_the_deadline_is_for_all_of_it(protocol: str, answer: Answer) -> None:
    with Endpoint(always(answer)) as endpoint:
        reply = model(endpoint, protocol, timeout_s=0.4).ask(QUESTION)
    assert reply.error == "no whole answer within 0.4 s"
    assert reply.again
    assert 0.4 <= reply.seconds < 5


def test_who_never_answers_the_handshake_is_given_up_as_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with Endpoint(always(Say(GOOD))) as endpoint:
            reply = model(endpoint, "openai", endpoint=url, timeout_s=0.3).ask(QUESTION)
    assert reply.error == "no whole answer within 0.3 s"


@both
def test_nobody_listens(protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Endpoint(always(Say(GOOD))) as endpoint:
        reply = model(endpoint, protocol, endpoint=f"http://127.0.0.1:{port}").ask(QUESTION)
    assert "connection refused" in reply.error
    assert reply.again
    assert (reply.tokens_in, reply.tokens_out) == (0, 0)


@both
def test_a_name_that_nobody_knows(protocol: str) -> None:
    with Endpoint(always(Say(GOOD))) as endpoint:
        reply = model(endpoint, protocol, endpoint="http://nowhere.invalid", tries=1, timeout_s=20.0).ask(
            QUESTION
        )
    assert "its name is not known" in reply.error


# ------------------------------------------------------------------------------ certificates

Issue = Callable[[trustme.CA], trustme.LeafCert]
PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


def served_by(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@both
@pytest.mark.parametrize(
    ("issue", "trusted", "said"),
    [
        (lambda ca: ca.issue_cert("127.0.0.1"), True, ""),
        (lambda ca: ca.issue_cert("127.0.0.1"), False, "certificate is not trusted"),
        (lambda ca: ca.issue_cert("elsewhere.example"), True, "IP address mismatch"),
        (lambda ca: ca.issue_cert("127.0.0.1", not_after=PAST), True, "certificate has expired"),
    ],
    ids=["good", "unknown authority", "another host", "expired"],
)
def test_a_certificate_is_never_overlooked(
    protocol: str, issue: Issue, trusted: bool, said: str, tmp_path: Path
) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ca_file = str(tmp_path / "ca.pem") if trusted else ""
    with Endpoint(always(Say(GOOD)), tls=served_by(issue(ca))) as endpoint:
        reply = model(endpoint, protocol, ca_file=ca_file).ask(QUESTION)
    if said:
        assert said in reply.error
        assert "ca_file" in reply.error
        assert not reply.again
        assert endpoint.asked == []
    else:
        assert reply.text == GOOD


def test_https_where_there_is_http() -> None:
    with Endpoint(always(Say(GOOD))) as endpoint:
        url = endpoint.url().replace("http", "https")
        reply = model(endpoint, "openai", endpoint=url).ask(QUESTION)
    assert "is it http instead of https" in reply.error


# ------------------------------------------------------------------------ what goes where


@both
def test_the_key_is_sent_to_the_endpoint(protocol: str) -> None:
    with Endpoint(always(Say(GOOD)), key=KEY) as endpoint:
        assert model(endpoint, protocol).ask(QUESTION).text == GOOD
        wrong = Model(configured(endpoint, protocol), "another")
        assert "the key is refused" in wrong.ask(QUESTION).error


@both
def test_without_a_key_none_is_sent(protocol: str) -> None:
    with Endpoint(always(Say(GOOD))) as endpoint:
        Model(configured(endpoint, protocol)).ask(QUESTION)
    assert not {"authorization", "x-api-key"} & endpoint.asked[0].headers.keys()


@both
@pytest.mark.parametrize(
    "answer",
    [Echo(400), Echo(401), Echo(500), Say(f"your key is {KEY}"), Say(f"no, {KEY}", finish="refusal")],
    ids=["echo 400", "echo 401", "echo 500", "reply", "refusal"],
)
def test_the_key_comes_back_to_nobody(
    protocol: str, answer: Answer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    with Endpoint(always(answer), key=KEY) as endpoint:
        asker = model(endpoint, protocol, tries=1)
        reply = asker.ask(QUESTION)
    assert KEY not in repr(reply)
    assert "***" in repr(reply) or len(reply.error) == 400  # hidden, or behind the end
    assert KEY not in repr(asker)
    assert KEY not in "".join(capfd.readouterr()) + caplog.text


@both
def test_what_stands_in_the_environment_does_not_count(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    vendor = protocol.upper()
    monkeypatch.setenv(f"{vendor}_API_KEY", "sk-environment")
    monkeypatch.setenv(f"{vendor}_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv(f"{vendor}_CUSTOM_HEADERS", "X-Secret: environment")
    monkeypatch.setenv("OPENAI_ORG_ID", "environment")
    with Endpoint(always(Say(GOOD))) as endpoint:
        assert Model(configured(endpoint, protocol)).ask(QUESTION).text == GOOD
    assert "environment" not in repr(endpoint.asked[0].headers)


@both
def test_nothing_about_this_host_is_sent(protocol: str) -> None:
    with Endpoint(always(Say(GOOD))) as endpoint:
        model(endpoint, protocol).ask(QUESTION)
    assert not [name for name in endpoint.asked[0].headers if name.startswith("x-stainless")]


@both
def test_a_proxy_that_is_configured_is_used(protocol: str) -> None:
    heard: list[bytes] = []

    def listen(server: socket.socket) -> None:
        with server.accept()[0] as client:
            heard.append(client.recv(1 << 16))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=listen, args=(server,))
        thread.start()
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
        with Endpoint(always(Say(GOOD))) as endpoint:
            model(endpoint, protocol, proxy=proxy, tries=1).ask(QUESTION)
        thread.join(10)
    assert heard[0].startswith(f"POST {endpoint.url('anthropic')}".encode())


# ---------------------------------------------------------------------- giving up, spending


@both
def test_a_call_that_is_given_up_returns_at_once_and_is_charged(protocol: str) -> None:
    purse, call = Purse(Budget(tokens_a_day=10_000)), Call()
    with Endpoint(always(Hang())) as endpoint:
        asker = model(endpoint, protocol, purse, timeout_s=60.0)
        replies: list[str] = []
        thread = threading.Thread(target=lambda: replies.append(asker.ask(QUESTION, call).error))
        thread.start()
        while not endpoint.asked:
            time.sleep(0.005)
        call.abandon()
        thread.join(10)
    assert replies == ["given up"]
    assert purse.spent(3600)[0] >= 100


def test_one_given_up_before_it_began_is_not_sent() -> None:
    call = Call()
    call.abandon()
    with Endpoint(always(Say(GOOD))) as endpoint:
        assert model(endpoint, "openai").ask(QUESTION, call).error == "given up"
    assert endpoint.asked == []


@both
def test_what_is_charged_is_what_the_endpoint_counts(protocol: str) -> None:
    purse = Purse(Budget(tokens_a_day=10_000, money_a_day=1.0))
    with Endpoint(always(Say(GOOD))) as endpoint:
        reply = model(endpoint, protocol, purse, prices=Prices(1.0, 2.0)).ask(QUESTION)
    tokens, money = purse.spent(3600)
    assert tokens == reply.tokens_in + reply.tokens_out
    assert money == pytest.approx(reply.cost)


@pytest.mark.parametrize(
    ("answer", "charged"),
    [(Fail(500), True), (Cut(), True), (Huge(2 << 20), True), (Raw(b"?"), True), (Fail(429), False)],
    ids=["500", "cut", "huge", "rubbish", "429"],
)
def test_a_call_that_fails_is_charged_unless_no_model_worked(answer: Answer, charged: bool) -> None:
    purse = Purse(Budget(tokens_a_day=100_000))
    with Endpoint(always(answer)) as endpoint:
        reply = model(endpoint, "openai", purse, tries=2).ask(QUESTION)
    assert len(endpoint.asked) == 2
    assert (purse.spent(3600)[0] >= 2 * 100) is charged
    assert reply.tokens_in + reply.tokens_out == purse.spent(3600)[0]


@both
def test_a_spent_budget_asks_nobody(protocol: str) -> None:
    purse = Purse(Budget(tokens_an_hour=200))
    with Endpoint(always(Say("word " * 90))) as endpoint:
        asker = model(endpoint, protocol, purse)
        assert not asker.ask(QUESTION).error
        reply = asker.ask(QUESTION)
    assert len(endpoint.asked) == 1
    assert "budget.tokens_an_hour is spent" in reply.error
    assert "free again in 60 min" in reply.error
    assert not reply.again


def test_an_endpoint_that_claims_absurd_numbers_of_tokens_breaks_nothing() -> None:
    usage = b'{"prompt_tokens": -5, "completion_tokens": %d}' % 2**62
    body = b'{"choices": [{"message": {"content": "ok"}}], "usage": %s}' % usage
    with Endpoint(always(Raw(body))) as endpoint:
        reply = model(endpoint, "openai", Purse(Budget(tokens_a_day=1000))).ask(QUESTION)
    assert reply.text == "ok"
    assert reply.tokens_in == 0
    assert 0 < reply.tokens_out <= 10**9


@both
def test_whatever_comes_it_is_a_reply(protocol: str) -> None:
    rng = random.Random(4)
    with Endpoint(SCRIPTS["random"](rng)) as endpoint:
        asker = model(endpoint, protocol, timeout_s=0.5, tries=1)
        replies = [asker.ask(QUESTION) for _ in range(80)]
    assert all(bool(reply.text) or bool(reply.error) for reply in replies)
    assert len({reply.error[:20] for reply in replies}) > 8


def test_several_threads_may_ask_at_a_time() -> None:
    with Endpoint(lambda asked: Say(asked.prompt, wait_s=0.1)) as endpoint:
        asker = model(endpoint, "openai")
        replies: dict[int, str] = {}

        def ask(number: int) -> None:
            replies[number] = asker.ask(Consult("", (Said("user", f"n{number}"),), SCHEMA)).text

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert replies == {number: f"n{number}" for number in range(8)}
