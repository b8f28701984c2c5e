"""Framing: whatever is sent comes out again however the stream is cut, and nothing else does."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.actor.cases import CASE
from tuned_spec.actor import channel
from tuned_spec.errors import ProtocolError
from tuned_spec.model import (
    Arm,
    Cancel,
    FromActor,
    Hello,
    Measure,
    Measurement,
    Probe,
    ProbeAnswer,
    ToActor,
    Verdict,
    VerdictKind,
    Write,
)

FROM: list[FromActor] = [
    Hello("trial", 1, 65534),
    Measure("t", 1, Arm.C, 0.5, 1.0, (Write("k", (1, 2, 3)),)),
    Probe("t", 2, "uptime", {"a": "b"}),
    Verdict("t", VerdictKind.OVERWRITE, "better", (Write("k", "madvise"),), 0.5, 0.1, None, 31.0, 7),
]
TO: list[ToActor] = [
    CASE,
    Measurement("t", 1, Arm.A, {"app.p95_ms": (1.0, 2.5)}, "late"),
    ProbeAnswer("t", 2, "yes"),
    Cancel("t", "lease ended"),
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(FROM), max_size=6), st.lists(st.integers(1, 40), min_size=1))
def test_messages_survive_any_cutting(messages: list[FromActor], cuts: list[int]) -> None:
    stream = b"".join(map(channel.encode, messages))
    decoder, position = channel.from_actor(), 0
    got: list[FromActor] = []
    while position < len(stream):
        step = cuts[len(got) % len(cuts)]
        got += decoder.feed(stream[position : position + step])
        position += step
    decoder.finish()
    assert got == messages


def test_messages_to_the_actor_round_trip() -> None:
    decoder = channel.to_actor()
    assert decoder.feed(b"".join(map(channel.encode, TO))) == TO
    decoder.finish()


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (frame(b""), "frame of 0 bytes"),
        ((channel.FROM_ACTOR_LIMIT + 1).to_bytes(4, "big"), f"1 to {channel.FROM_ACTOR_LIMIT} are allowed"),
        (b"\xff" * 8, "frame of 4294967295 bytes"),
        (frame(b"rm -rf /"), "starts with 'rm -rf /'"),
        (frame(b"\xc3\x28"), "cannot be read"),
        (frame(b"[" * 60_000), "cannot be read"),
        (frame(b'{"type":"exec"}'), "Invalid value 'exec'"),
        (channel.encode(CASE), "Invalid value 'case'"),  # a type of the other direction
        (frame(b'{"type":"hello","kind":"t","pid":"1","uid":0}'), "Expected `int`, got `str`"),
        (frame(b'{"type":"hello","kind":"t","pid":1}'), "missing required field `uid`"),
        (frame(b'{"type":"hello","kind":"t","pid":1,"uid":0,"path":"/"}'), "unknown field `path`"),
        (frame(b'{"type":"verdict","case":"t","kind":"keep","reason":""}'), "Invalid enum value 'keep'"),
        (frame(b'{"type":"verdict","case":"t","kind":"confirm","reason":"","low":NaN}'), "cannot be read"),
    ],
)
def test_what_is_no_message_is_named(stream: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(said)):
        channel.from_actor().feed(stream)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_never_raise_anything_else(data: bytes) -> None:
    decoder = channel.from_actor()
    try:
        for message in decoder.feed(data) + decoder.feed(frame(data)):
            assert isinstance(message, Hello | Measure | Probe | Verdict)
        decoder.finish()
    except ProtocolError:
        pass


def test_a_cut_stream_is_an_error_at_its_end() -> None:
    decoder = channel.from_actor()
    assert decoder.feed(channel.encode(FROM[0])[:-1]) == []
    with pytest.raises(ProtocolError, match="into a frame"):
        decoder.finish()


def test_a_message_the_peer_would_refuse_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match=r"Verdict of \d+ bytes"):
        channel.encode(Verdict("t", VerdictKind.REJECT, "x" * channel.FROM_ACTOR_LIMIT))


def test_the_daemon_can_import_the_channel_without_the_statistics() -> None:
    program = (
        "import sys, tuned_spec.actor.channel\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules} & {'numpy', 'scipy'}))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
