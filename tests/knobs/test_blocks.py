"""Which disks there are, which one a name means; an I/O scheduler comes back with its own settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuned_spec.errors import KnobRefused
from tuned_spec.knobs import reach
from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import MOST_CONCRETE, Catalogue
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import Write


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def a_disk(root: Path, name: str, *, device: bool = True, size: int = 2048, hidden: int = 0) -> None:
    put(root, f"sys/block/{name}/size", f"{size}\n")
    put(root, f"sys/block/{name}/hidden", f"{hidden}\n")
    put(root, f"sys/block/{name}/queue/read_ahead_kb", "128\n")
    put(root, f"sys/block/{name}/queue/max_sectors_kb", "512\n")
    put(root, f"sys/block/{name}/queue/max_hw_sectors_kb", "1024\n")
    put(root, f"sys/block/{name}/queue/scheduler", "[none] mq-deadline\n")
    if device:
        put(root, f"sys/block/{name}/device/model", "")


def test_a_disk_has_a_device_a_medium_and_is_not_hidden(tmp_path: Path) -> None:
    for name in ("sdb", "sda", "nvme0n1"):
        a_disk(tmp_path, name)
    a_disk(tmp_path, "loop0", device=False)
    a_disk(tmp_path, "sr0", size=0)
    a_disk(tmp_path, "nvme0c0n1", hidden=1)
    here = Catalogue(load(), adapters(tmp_path))
    assert here.instances("block.read_ahead_kb") == ("nvme0n1", "sda", "sdb")
    assert here.instances("block.read_ahead_kb@sd*") == ("sda", "sdb")


def test_a_disk_bounds_its_requests_offers_its_schedulers_and_has_a_number(tmp_path: Path) -> None:
    a_disk(tmp_path, "sda")
    access = adapters(tmp_path)
    here = Catalogue(load(), access)
    assert here["block.max_sectors_kb@sda"].high == 1024
    assert here["block.max_sectors_kb"].high == 65536
    assert here["block.scheduler@sda"].choices == ("none", "mq-deadline")
    queue = tmp_path / "sys/block/sda/queue"
    identity = access["block"].identity(here["block.scheduler@sda"])
    assert identity == f"inode:{queue.stat().st_ino}@{queue}"
    assert reach.gone(identity) == ""
    queue.rename(queue.with_name("old"))  # another of the name is another disk
    assert "No such file" in reach.gone(identity)
    put(tmp_path, "sys/block/sda/queue/scheduler", "[none]\n")
    assert "is another one now" in reach.gone(identity)
    assert access["block"].identity(here["block.scheduler@sdz"]) == ""


def test_names_of_whoever_asks_neither_raise_nor_pile_up() -> None:
    here = Catalogue(load(), adapters(Path("/")))
    assert not [entry for entry in load() if f"{entry}@a\0" in here or f"{entry}@\0" in here]
    for number in range(2 * MOST_CONCRETE):
        assert f"block.scheduler@disk{number}" in here
    assert len(here._concrete) <= MOST_CONCRETE


def test_another_disk_of_the_name_has_its_own_choices(tmp_path: Path) -> None:
    a_disk(tmp_path, "sda")
    here = Catalogue(load(), adapters(tmp_path))
    assert here["block.scheduler@sda"].choices == ("none", "mq-deadline")
    put(tmp_path, "sys/block/sda/queue/scheduler", "[none] kyber\n")
    here.forget()
    assert here["block.scheduler@sda"].choices == ("none", "kyber")


@pytest.mark.parametrize("name", ["../sda", "..", "a/../../b", ""])
def test_no_name_leads_elsewhere(tmp_path: Path, name: str) -> None:
    access = adapters(tmp_path)
    here = Catalogue(load(), access)
    if not name:
        with pytest.raises(KeyError):
            here["block.scheduler@"]
        return
    with pytest.raises(KnobRefused, match="leaves"):
        access["block"].address(here[f"block.scheduler@{name}"])


# ------------------------------------------------------------------ on a loop device nobody uses


@pytest.fixture
def loop() -> Iterator[str]:
    """The name of an idle loop device with schedulers to choose from; as found afterwards."""
    for queue in sorted(Path("/sys/block").glob("loop*/queue"), reverse=True):
        words = (queue / "scheduler").read_text().replace("[", "").replace("]", "").split()
        idle = (queue.parent / "size").read_text().strip() == "0"
        if idle and {"mq-deadline", "kyber"} <= set(words):
            break
    else:
        pytest.skip("block.scheduler: no idle loop device with mq-deadline and kyber")
    names = ("scheduler", "nr_requests", "read_ahead_kb", "wbt_lat_usec")
    before = {name: (queue / name).read_text() for name in names if (queue / name).exists()}
    yield queue.parent.name
    (queue / "scheduler").write_text(repair.shown("choice", before["scheduler"]))
    for name in before:
        if (queue / name).read_text() != before[name]:
            (queue / name).write_text(before[name])
    assert {name: (queue / name).read_text() for name in before} == before


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="block.scheduler: root is needed")
@pytest.mark.parametrize("by", ["ledger", "repair"])
def test_a_scheduler_comes_back_with_its_own_settings(loop: str, tmp_path: Path, by: str) -> None:
    queue = Path("/sys/block") / loop / "queue"
    (queue / "scheduler").write_text("mq-deadline")
    (queue / "nr_requests").write_text("64")
    (queue / "iosched/read_expire").write_text("200")
    (queue / "iosched/fifo_batch").write_text("3")
    before = {f.name: f.read_text() for f in (queue / "iosched").iterdir()}
    access = adapters()
    journal = Journal(tmp_path, repair.boot_id())
    ledger = Ledger(Catalogue(load(), access), access, journal, time.monotonic)
    scheduler, depth, latency = (
        f"block.{name}@{loop}" for name in ("scheduler", "nr_requests", "kyber.read_lat_nsec")
    )
    try:
        done = ledger.apply("t1", "r", (Write(scheduler, "kyber"),))
        assert "[kyber]" in (queue / "scheduler").read_text()
        assert not (queue / "iosched/read_expire").exists()
        assert (queue / "nr_requests").read_text() != "64\n"
        assert ledger.audit() == ()
        # the arms of a trial: there and back, with all that belongs to each
        ledger.apply("t1", "r", done.before)
        assert {f.name: f.read_text() for f in (queue / "iosched").iterdir()} == before
        ledger.apply("t1", "r", done.after)
        ledger.apply("t1", "r", (Write(depth, 32), Write(latency, 500_000)))
        assert (queue / "iosched/read_lat_nsec").read_text() == "500000\n"
        if by == "ledger":
            assert {o.status for o in ledger.restore()} <= {"restored", "unchanged"}
        else:
            command = ["/usr/bin/python3", "-I", "-S", str(tmp_path / "repair.py"), "--json"]
            told = subprocess.run(command, capture_output=True, text=True, env={})
            answer = json.loads(told.stdout)
            assert told.returncode == 0, answer
            assert {o["status"] for o in answer["outcomes"]} <= {"restored", "unchanged"}
        assert "[mq-deadline]" in (queue / "scheduler").read_text()
        assert (queue / "nr_requests").read_text() == "64\n"
        assert {f.name: f.read_text() for f in (queue / "iosched").iterdir()} == before
    finally:
        ledger.restore()
        journal.close()


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="block.scheduler: root is needed")
def test_who_chooses_another_scheduler_keeps_it(loop: str, tmp_path: Path) -> None:
    queue = Path("/sys/block") / loop / "queue"
    (queue / "scheduler").write_text("mq-deadline")
    access = adapters()
    journal = Journal(tmp_path, repair.boot_id())
    ledger = Ledger(Catalogue(load(), access), access, journal, time.monotonic)
    try:
        ledger.apply("t1", "r", (Write(f"block.mq_deadline.fifo_batch@{loop}", 5),))
        (queue / "scheduler").write_text("none")
        assert f"block.scheduler@{loop}" in {theirs.knob for theirs in ledger.audit()}
        assert {o.status for o in ledger.restore()} == {"foreign"}
        assert "[none]" in (queue / "scheduler").read_text()
    finally:
        ledger.restore()
        journal.close()


@pytest.mark.kernel
def test_a_disk_of_this_host_is_itself_and_no_other() -> None:
    access = adapters()
    here = Catalogue(load(), access)
    for disk in here.instances("block.scheduler"):
        identity = access["block"].identity(here[f"block.scheduler@{disk}"])
        assert reach.gone(identity) == ""
        assert "is another one now" in reach.gone(identity.replace(":", ":1", 1))


@pytest.fixture
def filled(loop: str, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A loop device with a file behind it; call it to put in another one."""
    image, device = tmp_path / "image", f"/dev/{loop}"
    image.write_bytes(bytes(1 << 20))

    def swap() -> None:
        subprocess.run(["losetup", "--detach", device], check=True)
        subprocess.run(["losetup", device, image], check=True)

    subprocess.run(["losetup", device, image], check=True)
    yield swap
    subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("losetup"), reason="block.nomerges: root, losetup")
def test_what_was_set_goes_back_though_the_medium_was_changed(
    loop: str, filled: Callable[[], None], tmp_path: Path
) -> None:
    """The kernel keeps it: a card or a file that is changed is no other disk."""
    file = Path("/sys/block") / loop / "queue/nomerges"
    before = file.read_text()
    access = adapters()
    journal = Journal(tmp_path, repair.boot_id())
    ledger = Ledger(Catalogue(load(), access), access, journal, time.monotonic)
    try:
        ledger.apply("t1", "r", (Write(f"block.nomerges@{loop}", 2),))
        filled()
        assert file.read_text() == "2\n"
        assert [o.status for o in ledger.restore()] == ["restored"]
        assert file.read_text() == before
    finally:
        file.write_text(before)
        journal.close()
