"""The file adapters on a tree that looks like a host: showing, parsing, refusing."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuned_spec.errors import KnobAbsent, KnobRefused
from tuned_spec.knobs import reach
from tuned_spec.knobs.adapters import PLACES, Adapter, adapters
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.model import Knob, KnobType, Receipt, Value


def a_knob(
    type: KnobType = KnobType.INT, target: str = "vm/first", adapter: str = "sysctl", **more: object
) -> Knob:
    if type is KnobType.INTS:
        more.setdefault("fields", ("min", "default", "max"))
    if type is KnobType.CHOICE:
        more.setdefault("choices", ("always", "madvise", "never"))
    return Knob(
        id=target.replace("/", "."),
        adapter=adapter,
        target=target,
        type=type,
        unit="pages",
        summary="A knob of a test.",
        source="here",
        **more,  # type: ignore[arg-type]
    )


def a_receipt(adapter: Adapter, knob: Knob, text: str) -> Receipt:
    return Receipt(row=1, knob=knob.id, target=adapter.address(knob), text=text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for place in PLACES.values():
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "proc/sys/vm").mkdir()
    return tmp_path


@pytest.fixture
def sysctl(root: Path) -> Adapter:
    return adapters(root)["sysctl"]


# --------------------------------------------------------------------- showing and parsing


SHOWN: list[tuple[KnobType, str, Value, str]] = [
    (KnobType.INT, "60\n", 60, "60"),
    (KnobType.INT, "-1\n", -1, "-1"),
    (KnobType.INT, "18446744073709551615\n", 2**64 - 1, "18446744073709551615"),
    (KnobType.INTS, "4096\t131072\t6291456\n", (4096, 131072, 6291456), "4096 131072 6291456"),
    (KnobType.BOOL, "1\n", 1, "1"),
    (KnobType.BOOL, "N\n", 0, "0"),
    (KnobType.BOOL, "Y\n", 1, "1"),
    (KnobType.BOOL, "false\n", 0, "0"),
    (KnobType.CHOICE, "always [madvise] never\n", "madvise", "madvise"),
    (KnobType.CHOICE, "always defer [defer+madvise] madvise never\n", "defer+madvise", "defer+madvise"),
    (KnobType.CHOICE, "lzo-rle\n", "lzo-rle", "lzo-rle"),
    (KnobType.WORDS, "reno bbr\n", "reno bbr", "reno bbr"),
]


@pytest.mark.parametrize(("type", "shown", "value", "written"), SHOWN)
def test_a_shown_text_is_parsed_and_written_as_the_kernel_takes_it(
    sysctl: Adapter, root: Path, type: KnobType, shown: str, value: Value, written: str
) -> None:
    knob = a_knob(type)
    (root / "proc/sys/vm/first").write_text(shown)
    assert sysctl.read_text(knob) == shown.strip()
    assert sysctl.parse(knob, shown) == value
    assert sysctl.format(knob, value) == written
    assert sysctl.canonical(knob, value) == value


@pytest.mark.parametrize(
    ("type", "text", "why"),
    [
        (KnobType.INT, "", "not one number"),
        (KnobType.INT, "5 6", "not one number"),
        (KnobType.INT, "five", "'five' is not a number"),
        (KnobType.INT, "1_000", "'1_000' is not a number"),
        (KnobType.INT, "٣", "is not a number"),
        (KnobType.INT, "0x10", "'0x10' is not a number"),
        (KnobType.INTS, "1 2", "has 2 numbers, not 3 (min default max)"),
        (KnobType.INTS, "1 2 x", "'x' is not a number"),
        (KnobType.BOOL, "2", "is not one of 0 1 N Y"),
        (KnobType.CHOICE, "always madvise never", "does not show one chosen word"),
        (KnobType.CHOICE, "[always] [never]", "does not show one chosen word"),
        (KnobType.WORDS, " ", "an empty list"),
    ],
)
def test_a_text_that_makes_no_sense_is_said(sysctl: Adapter, type: KnobType, text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"^vm\.first: ") as raised:
        sysctl.parse(a_knob(type), text)
    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (KnobType.INT, "5"),
        (KnobType.INT, True),
        (KnobType.INT, (5,)),
        (KnobType.INTS, (1, 2)),  # the kernel would keep the third and call it success
        (KnobType.INTS, (1, 2, 3, 4)),
        (KnobType.INTS, 5),
        (KnobType.BOOL, 2),
        (KnobType.BOOL, "Y"),
        (KnobType.CHOICE, ""),
        (KnobType.CHOICE, "two words"),
        (KnobType.CHOICE, "[always]"),
        (KnobType.CHOICE, 1),
        (KnobType.WORDS, ""),
        (KnobType.WORDS, 1),
    ],
)
def test_a_value_of_the_wrong_shape_is_never_written(sysctl: Adapter, type: KnobType, value: Value) -> None:
    for make in (sysctl.format, sysctl.canonical):
        with pytest.raises(ValueError, match=r"^vm\.first: "):
            make(a_knob(type), value)


@given(value=st.integers(-(2**63), 2**64 - 1), quantum=st.integers(1, 2**16))
def test_rounding_is_down_and_happens_once(value: int, quantum: int) -> None:
    adapter, knob = adapters()["sysctl"], a_knob(quantum=quantum)
    once = adapter.canonical(knob, value)
    assert isinstance(once, int)
    assert value - quantum < once <= value
    assert once % quantum == 0
    assert adapter.canonical(knob, once) == once


@given(value=st.tuples(*[st.integers(0, 2**31 - 1)] * 3))
def test_a_triple_survives_writing_and_showing_with_tabs(value: tuple[int, int, int]) -> None:
    adapter, knob = adapters()["sysctl"], a_knob(KnobType.INTS)
    assert adapter.parse(knob, adapter.format(knob, value).replace(" ", "\t") + "\n") == value


# ----------------------------------------------------------------------- what is not there


def test_absent_names_the_file_and_the_reason(sysctl: Adapter, root: Path) -> None:
    knob = a_knob(target="vm/none")
    availability = sysctl.probe(knob)
    assert (availability.present, availability.writable) == (False, False)
    assert f"{root}/proc/sys/vm/none is not there [ENOENT]; this kernel does not offer it" == availability.why
    with pytest.raises(KnobAbsent) as raised:
        sysctl.read_text(knob)
    assert raised.value.code == errno.ENOENT
    with pytest.raises(KnobAbsent):
        sysctl.write(a_receipt(sysctl, knob, "1"), knob)
    assert not (root / "proc/sys/vm/none").exists()  # a knob that is gone must not become a file


def test_an_empty_debugfs_is_said_to_be_unmounted(root: Path) -> None:
    why = adapters(root)["debugfs"].probe(a_knob(adapter="debugfs", target="sched/x")).why
    assert f"debugfs is not mounted: mount -t debugfs debugfs {root}/sys/kernel/debug" in why


def test_a_missing_tree_is_said(tmp_path: Path) -> None:
    for name, place in PLACES.items():
        why = adapters(tmp_path)[name].probe(a_knob(adapter=name)).why
        assert f"{tmp_path / place} is missing" in why


def test_a_directory_is_not_a_knob(sysctl: Adapter, root: Path) -> None:
    (root / "proc/sys/vm/first").mkdir()
    availability = sysctl.probe(a_knob())
    assert (availability.present, availability.writable) == (True, False)
    assert "[EISDIR]; the catalogue's target is a directory" in availability.why


@pytest.mark.parametrize(
    "target", ["../../etc/passwd", "vm/../../x", "/etc/passwd", "vm//x", "./vm", "", "vm/\0"]
)
def test_a_target_that_leaves_the_tree_is_refused_everywhere(
    sysctl: Adapter, root: Path, target: str
) -> None:
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root")
    knob = a_knob(target=target)
    for ask in (sysctl.address, sysctl.read_text):
        with pytest.raises(KnobRefused, match="leaves"):
            ask(knob)
    with pytest.raises(KnobRefused, match="leaves"):
        sysctl.write(Receipt(row=1, knob=knob.id, target=f"{root}/etc/passwd", text="1"), knob)
    availability = sysctl.probe(knob)
    assert (availability.present, availability.writable) == (False, False)
    assert "leaves" in availability.why
    assert (root / "etc/passwd").read_text() == "root"


# --------------------------------------------------------------------------------- writing


def test_one_write_that_neither_creates_nor_truncates(sysctl: Adapter, root: Path) -> None:
    file = root / "proc/sys/vm/first"
    file.write_text("12345")
    sysctl.write(a_receipt(sysctl, a_knob(), "9"), a_knob())
    assert file.read_text() == "92345"  # a plain file shows it; a sysctl takes the text as a whole


def test_a_receipt_for_another_knob_or_place_writes_nothing(sysctl: Adapter, root: Path) -> None:
    (root / "proc/sys/vm/first").write_text("5")
    for other in (a_knob(target="vm/other"), a_knob(adapter="sysfs")):
        receipt = a_receipt(adapters(root)[other.adapter], other, "9")
        with pytest.raises(KnobRefused, match=f"the receipt is for {other.id} at {receipt.target}, not "):
            sysctl.write(receipt, a_knob())
    assert (root / "proc/sys/vm/first").read_text() == "5"


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_text_is_refused_since_the_kernel_would_call_it_success(
    sysctl: Adapter, root: Path, text: str
) -> None:
    (root / "proc/sys/vm/first").write_text("5")
    with pytest.raises(KnobRefused, match="an empty text"):
        sysctl.write(a_receipt(sysctl, a_knob(), text), a_knob())


def test_a_link_is_not_followed_and_an_errno_without_a_hint_says_value_and_path(
    sysctl: Adapter, root: Path
) -> None:
    (root / "proc/sys/vm/first").symlink_to("/dev/null")
    with pytest.raises(
        KnobRefused, match=r"'9' to .*/vm/first: Too many levels of symbolic links \[ELOOP\]"
    ) as raised:
        sysctl.write(a_receipt(sysctl, a_knob(), "9"), a_knob())
    assert raised.value.code == errno.ELOOP


# ------------------------------------------------------------------- what the host offers


def test_choices_are_cut_down_to_what_the_host_offers(root: Path) -> None:
    (root / "proc/sys/net/ipv4").mkdir(parents=True)
    (root / "proc/sys/net/ipv4/available").write_text("reno house-made\n")
    (root / "sys/thp").write_text("always [never] later\n")
    (root / "sys/bare").write_text("lzo\n")
    listed = a_knob(
        KnobType.CHOICE, "net/ipv4/cc", choices_from="net/ipv4/available", choices=("reno", "bbr")
    )
    bracketed = a_knob(KnobType.CHOICE, "thp", "sysfs")
    bare = a_knob(KnobType.CHOICE, "bare", "sysfs", choices=("lzo", "zstd"))
    absent = a_knob(KnobType.CHOICE, "absent", "sysfs")
    number = a_knob()
    catalogue = {knob.id: knob for knob in (listed, bracketed, bare, absent, number)}
    here = Catalogue(catalogue, adapters(root))
    assert here[listed.id].choices == ("reno", "house-made")
    assert here[bracketed.id].choices == ("always", "never")
    assert here[bare.id] is bare
    assert here[absent.id] is absent
    assert here[number.id] is number


def test_identity_is_the_network_namespace_and_only_for_its_knobs(root: Path) -> None:
    sysctl = adapters(root)["sysctl"]
    netns = a_knob(scope="netns")
    assert sysctl.identity(netns) == ""  # a kernel without namespaces
    (root / "proc/self/ns").mkdir(parents=True)
    inode = root / "proc/self/ns/net"
    inode.touch()
    assert sysctl.identity(netns) == f"netns:[{inode.stat().st_ino}]"
    assert sysctl.identity(a_knob()) == ""


def test_what_a_way_trips_over_is_an_error_of_that_knob_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread to be had, a number that is none: a repair goes on with the next knob."""
    for address in ("link:x/txqueuelen", "netns:/proc/self/ns/net|bad\0path"):
        with pytest.raises(OSError, match="ValueError"):
            reach.read(address)
        with pytest.raises(OSError, match="ValueError"):
            reach.write(address, "1")
    assert "ValueError" in reach.gone("netns:[1]@eth0#x")
    monkeypatch.setitem(reach.MODULES, "link", "no_such_module")
    with pytest.raises(OSError, match="ModuleNotFoundError"):
        reach.read("link:1/txqueuelen")
