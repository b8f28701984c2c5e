"""What the audit reads by: the same as `reach.read`, whatever happens to a file that is kept open."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuned_spec.knobs import reach
from tuned_spec.ledger import eyes
from tuned_spec.ledger.eyes import Eyes


@pytest.fixture
def looking() -> Iterator[Eyes]:
    one = Eyes()
    yield one
    one.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_new_value_is_seen_and_one_descriptor_kept(looking: Eyes, tmp_path: Path) -> None:
    knob = tmp_path / "knob"
    knob.write_text("1\n")
    before = descriptors()
    assert looking.read(str(knob)) == "1"
    knob.write_text("22\n")
    assert looking.read(str(knob)) == "22" == reach.read(str(knob))
    assert descriptors() == before + 1
    looking.only([])
    assert descriptors() == before


def test_what_is_not_there_is_said_as_by_any_read(looking: Eyes, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        looking.read(str(tmp_path / "none"))
    with pytest.raises(OSError) as unknown:
        looking.read("nonsense:1")
    assert unknown.value.errno == errno.EOPNOTSUPP


def test_more_than_a_page_comes_whole(looking: Eyes, tmp_path: Path) -> None:
    long = tmp_path / "long"
    long.write_text("1," * eyes.PAGE)
    assert looking.read(str(long)) == "1," * eyes.PAGE == reach.read(str(long))


def test_no_more_descriptors_than_it_may_have(
    looking: Eyes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eyes, "MOST", 2)
    before = descriptors()
    for name in "abcd":
        (tmp_path / name).write_text(name)
        assert looking.read(str(tmp_path / name)) == name
    assert descriptors() == before + 2
    assert looking.read(str(tmp_path / "a")) == "a"


@pytest.mark.kernel
@pytest.mark.parametrize("path", ["/proc/sys/vm/swappiness", "/sys/kernel/mm/transparent_hugepage/enabled"])
def test_the_kernel_shows_a_kept_file_anew(looking: Eyes, path: str) -> None:
    if not Path(path).exists():
        pytest.skip(f"{path} is not on this kernel")
    for _ in range(3):
        assert looking.read(path) == reach.read(path) != ""
