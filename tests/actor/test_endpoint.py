"""The scripted endpoint run alone, as benches and the demo do, and what it makes up."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.actor.asking import PROTOCOLS, QUESTION, SCHEMA
from tuned_spec.actor.config import ModelConfig
from tuned_spec.actor.models import Model
from workloads.endpoint import MODEL, fill


def test_it_runs_alone_and_speaks_both_protocols() -> None:
    words = [sys.executable, "-m", "workloads.endpoint", "--script", "schema", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        urls = dict(re.findall(r"(\w+) (http://\S+?)(?:,|$)", process.stdout.readline().strip()))
        try:
            for protocol in PROTOCOLS:
                reply = Model(ModelConfig(protocol, urls[protocol], MODEL)).ask(QUESTION)
                assert msgspec.json.decode(reply.text)["verdict"] in ("confirm", "reject")
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


SCALARS = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-9, 9),
        st.integers(0, 9),
    ),
    st.builds(lambda words: {"type": "string", "enum": words}, st.lists(st.text(max_size=3), min_size=1)),
)


@given(st.dictionaries(st.text(max_size=3), SCALARS, max_size=4), st.randoms(use_true_random=False))
def test_what_it_makes_up_is_allowed(properties: dict[str, object], rng: random.Random) -> None:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    made = fill({"type": "array", "items": schema, "minItems": 1}, rng)
    assert made
    for one in made:
        assert one.keys() == properties.keys()
        for name, of in properties.items():
            match of:
                case {"enum": words}:
                    assert one[name] in words
                case {"type": "integer", "minimum": low, "maximum": high}:
                    assert low <= one[name] <= high
                case {"type": "boolean"}:
                    assert one[name] in (True, False)
                case _:
                    assert one[name] is None
    assert fill(SCHEMA, rng)["verdict"] in ("confirm", "reject")
