"""The few words of D-Bus, spoken with a bus that is not ours, and the texts in which a setting is kept."""

from __future__ import annotations

import errno
import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuned_spec.knobs.reach import unit

# ------------------------------------------------------------------------------ the wire

VALUES = {
    "y": st.integers(0, 255),
    "b": st.booleans(),
    "u": st.integers(0, 2**32 - 1),
    "t": st.integers(0, 2**64 - 1),
    "x": st.integers(-(2**63), 2**63 - 1),
    "s": st.text().filter(lambda text: "\0" not in text),
    "g": st.sampled_from(["", "s", "sba(sv)"]),
    "ay": st.binary(),
}


@functools.cache
def typed(depth: int = 2) -> st.SearchStrategy[tuple[str, object]]:
    """(signature, a value of it)."""
    plain = st.sampled_from(sorted(VALUES)).flatmap(lambda t: st.tuples(st.just(t), VALUES[t]))
    if not depth:
        return plain
    return st.one_of(
        plain,
        typed(depth - 1).map(lambda x: ("v", x)),
        st.tuples(typed(depth - 1), st.integers(0, 3))
        .filter(lambda x: x[0][0] != "y")
        .map(lambda x: ("a" + x[0][0], [x[0][1]] * x[1])),
        st.lists(typed(depth - 1), min_size=1, max_size=3).map(
            lambda xs: (f"({''.join(t for t, _ in xs)})", tuple(v for _, v in xs))
        ),
    )


@settings(suppress_health_check=[HealthCheck.too_slow])  # a fresh checkout makes its tables of letters first
@given(typed(), st.integers(0, 8))
def test_what_is_marshalled_comes_out_again_wherever_it_begins(sample: tuple[str, object], at: int) -> None:
    signature, value = sample
    out = bytearray(at)
    unit.marshal(out, signature, value)
    assert unit.types(signature) == [signature]
    assert unit.unmarshal(signature, bytes(out), at) == (value, len(out))


def test_a_signature_falls_into_its_complete_types() -> None:
    assert unit.types("sba(sv)a{sv}aasi") == ["s", "b", "a(sv)", "a{sv}", "aas", "i"]


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[unit.Bus]:
    """A connection to a bus daemon of the reference implementation, said hello to."""
    program = shutil.which("dbus-daemon")
    if program is None:
        pytest.skip("dbus-daemon is not installed (Debian: dbus)")
    config = tmp_path / "bus.conf"
    policy = ['send_destination="*"', *(f'receive_type="{x}"' for x in ("method_return", "error", "signal"))]
    allowed = "".join(f"<allow {what}/>" for what in (*policy, 'own="*"'))
    config.write_text(
        f"<busconfig><listen>unix:path={tmp_path}/bus</listen><auth>EXTERNAL</auth>"
        f'<policy context="default">{allowed}</policy></busconfig>'
    )
    command = [program, f"--config-file={config}", "--nofork", "--print-address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
        try:
            assert daemon.stdout is not None
            daemon.stdout.readline()  # it listens
            with unit.Bus(str(tmp_path / "bus"), "org.freedesktop.DBus") as connection:
                yield connection
        finally:
            daemon.terminate()


def ask(bus: unit.Bus, member: str, signature: str = "", *args: object) -> list[object]:
    return bus.call("/org/freedesktop/DBus", "org.freedesktop.DBus", member, signature, *args)


def test_the_reference_implementation_understands_us(bus: unit.Bus) -> None:
    (name,) = ask(bus, "Hello")
    assert re.fullmatch(r":\d+\.\d+", str(name))
    (names,) = ask(bus, "ListNames")
    assert isinstance(names, list) and {name, "org.freedesktop.DBus"} <= set(names)
    assert ask(bus, "RequestName", "su", "org.example.Here", 4) == [1]
    assert ask(bus, "GetNameOwner", "s", "org.example.Here") == [name]
    (credentials,) = ask(bus, "GetConnectionCredentials", "s", name)
    assert isinstance(credentials, list)
    assert {"UnixUserID", "ProcessID"} <= {key for key, _ in credentials}
    read = bus.get("/org/freedesktop/DBus", [("org.freedesktop.DBus", "Interfaces")])
    assert "org.freedesktop.DBus.Monitoring" in read[0]


def test_what_is_refused_is_an_error_with_its_words(bus: unit.Bus) -> None:
    ask(bus, "Hello")
    with pytest.raises(OSError, match=r"org\.example\.Nobody") as refused:
        ask(bus, "GetNameOwner", "s", "org.example.Nobody")
    assert refused.value.errno == errno.EIO
    with pytest.raises(OSError) as wrong:
        ask(bus, "RequestName", "s", "org.example.Here")
    assert wrong.value.errno == errno.EINVAL
    assert ask(bus, "GetNameOwner", "s", "org.freedesktop.DBus") == ["org.freedesktop.DBus"]


def test_no_systemd_is_not_a_unit_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="is PID 1 systemd") as refused:
        unit.Bus(str(tmp_path / "private"))
    assert refused.value.errno == errno.ENOTCONN


# ---------------------------------------------------------------------------- the texts


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("CPUWeight", "200", "200"),
        ("CPUWeight", "100 (unset, no drop-in)", "100"),
        ("CPUWeight", "100 (unset)", "100"),
        ("CPUWeight", "300 (drop-in W1Nl)", "300"),
        ("CPUQuota", "max 100000 (no drop-in; unset, no drop-in)", "max 100000"),
        ("CPUQuota", "50000 100000", "50000 100000"),
        ("CPUQuota", "50000 100000 (; unset, no drop-in)", "50000 100000"),
        ("AllowedCPUs", "0-2,5", "0-2,5"),
        ("AllowedCPUs", "(no drop-in)", ""),
        ("AllowedCPUs", "", ""),
        ("MemoryHigh", "max (no drop-in)", "max"),
        ("IOReadIOPSMax", "max (no drop-in)", "max"),
    ],
)
def test_a_text_that_systemd_could_give_is_taken_as_it_is(name: str, text: str, value: str) -> None:
    assert unit.canonical(f"unit:a.service/{name}", text) == text
    assert unit.value(text) == value


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("MemoryHigh", "10000001", "9998336"),  # whole pages
        ("CPUQuota", "12345 50000", "12000 50000"),  # whole percents
        ("CPUQuota", "1000 1000000", "10000 1000000"),  # of which one is the least
        ("CPUQuota", "1600000 100000", "1600000 100000"),
    ],
)
def test_rounding_is_known_before_the_write(name: str, text: str, shown: str) -> None:
    assert unit.canonical(f"unit:a.service/{name}", text) == shown


@pytest.mark.parametrize("text", ["", "x", "1000 0", "10", "max", "1 2 3"])
def test_what_is_no_value_is_refused_before_anything_is_sent(text: str) -> None:
    with pytest.raises(OSError) as refused:
        unit.canonical("unit:a.service/CPUQuota", text)
    assert refused.value.errno == errno.EINVAL


def test_an_unknown_setting_is_named_with_those_that_there_are() -> None:
    with pytest.raises(OSError, match=r"Nice.*CPUWeight"):
        unit.split("unit:a.service/Nice")


@given(st.sets(st.integers(0, 300)))
def test_a_set_of_cpus_survives_the_bus(cpus: set[int]) -> None:
    text = ",".join(map(str, sorted(cpus)))
    shown = unit._words("AllowedCPUs", unit._raw("AllowedCPUs", [unit.Part(text)], ""), "")[0]
    again = unit._words("AllowedCPUs", unit._raw("AllowedCPUs", [unit.Part(shown)], ""), "")[0]
    spans = [(part + "-" + part).split("-")[:2] for part in shown.split(",") if part]
    assert {cpu for first, last in spans for cpu in range(int(first), int(last) + 1)} == cpus
    assert again == shown
