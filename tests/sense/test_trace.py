from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuned_spec.errors import UsageError
from tuned_spec.model import Observation, Value
from tuned_spec.sense.trace import VERSION, Header, Trace, Writer

KNOBS: dict[str, Value] = {
    "vm.swappiness": 60,
    "net.ipv4.tcp_rmem": (4096, 131072, 1 << 20),
    "thp.enabled": "madvise",
}
FACTS = {"ram": float(1 << 30)}
HEADER = Header(VERSION, "6.12.0", 2, 1 << 30, 1.0, ("cpu.busy", "disk.util@*"), "a load", FACTS, KNOBS)
SEEN = [Observation(50.0 + n, {"cpu.busy": n / 7, "disk.util@sda": 0.5}) for n in range(3)]


def write(path: Path, seen: list[Observation]) -> None:
    with Writer(path, HEADER) as writer:
        for observation in seen:
            writer.write(observation)


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, SEEN)
    trace = Trace(tmp_path / name)
    assert trace.header == HEADER
    for _ in range(2):  # it can be read again
        again = list(trace)
        assert [observation.t for observation in again] == [0.0, 1.0, 2.0]
        assert again[1].values == {"cpu.busy": pytest.approx(1 / 7, rel=1e-5), "disk.util@sda": 0.5}


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=9), NUMBERS, max_size=9), max_size=9))
def test_any_observation_survives(
    tmp_path_factory: pytest.TempPathFactory, seen: list[dict[str, float]]
) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    write(path, [Observation(float(n), values) for n, values in enumerate(seen)])
    for before, after in zip(seen, Trace(path), strict=True):
        assert after.values.keys() == before.keys()
        assert all(math.isclose(before[name], after.values[name], rel_tol=1e-5) for name in before)


def test_a_recording_that_is_cut_short_can_be_read(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "t.jsonl", HEADER)
    writer.write(SEEN[0])
    assert len(list(Trace(tmp_path / "t.jsonl"))) == 1  # nobody has closed it yet
    with writer:
        pass


LINE = '{"t":1.0,"values":{"cpu.busy":0.5}}'


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ([], "1: is not the header of a trace"),
        (["nonsense"], "1: is not the header"),
        (['{"version":1}'], "1: is not the header"),
        ([LINE], "1: is not the header"),
        (["HEADER2"], "1: version 2, known is 1"),
        (["HEADER", "{}"], "2: is not an observation"),
        (["HEADER", LINE, '{"t":2.0,"values":{"cpu.busy":"x"}}'], "3: is not an observation"),
        (["HEADER", LINE, '{"t":2.0,"values":{},"more":1}'], "3: is not an observation"),
        (["HEADER", '{"t":2.0,"values":{"cpu.busy":NaN}}'], "2: is not an observation"),
        (["HEADER", '{"t":2.0,"values":{}}', LINE], "3: t 1 is before 2"),
        (["HEADER", '{"t":2.0,"val'], "2: is not an observation"),
    ],
)
def test_what_is_wrong_has_its_line(tmp_path: Path, lines: list[str], wrong: str) -> None:
    write(tmp_path / "t.jsonl", [])
    head = (tmp_path / "t.jsonl").read_text().strip()
    lines = [{"HEADER": head, "HEADER2": head.replace('"version":1', '"version":2')}.get(x, x) for x in lines]
    (tmp_path / "t.jsonl").write_text("".join(line + "\n" for line in lines))
    with pytest.raises(UsageError) as error:
        list(Trace(tmp_path / "t.jsonl"))
    assert f"t.jsonl:{wrong}" in str(error.value)
    assert "tuned-spec record" in str(error.value)


def test_cut_off_files_are_told(tmp_path: Path) -> None:
    for name in ("t.jsonl", "t.jsonl.gz"):
        path = tmp_path / name
        write(path, SEEN)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(UsageError, match=rf"{name}:\d+: (is cut off|cannot be read)"):
            list(Trace(path))
    (tmp_path / "no.gz").write_bytes(b"plain")
    with pytest.raises(UsageError, match=r"no.gz:1: cannot be read"):
        Trace(tmp_path / "no.gz")
    with pytest.raises(UsageError, match=r"gone:1: cannot be read: No such file"):
        Trace(tmp_path / "gone")
    with pytest.raises(UsageError, match="cannot be written: Is a directory"):
        Writer(tmp_path, HEADER)


def test_compressed_is_gzip(tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl.gz", SEEN)
    assert len(gzip.decompress((tmp_path / "t.jsonl.gz").read_bytes()).splitlines()) == 4
