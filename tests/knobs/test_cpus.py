"""CPUs, interrupts and queues: which there are, which one a name means, what a name cannot reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tuned_spec.errors import KnobRefused
from tuned_spec.knobs import reach
from tuned_spec.knobs.adapters import Adapter, adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.ledger import repair
from tuned_spec.model import Knob

CPU = "sys/devices/system/cpu"
FILES = {
    f"{CPU}/cpufreq/policy0/scaling_governor": "powersave\n",
    f"{CPU}/cpufreq/policy0/scaling_available_governors": "performance powersave\n",
    f"{CPU}/cpufreq/policy0/scaling_max_freq": "2000000\n",
    f"{CPU}/cpufreq/policy0/cpuinfo_max_freq": "3000000\n",
    f"{CPU}/cpufreq/policy4/scaling_governor": "powersave\n",
    f"{CPU}/cpu0/power/pm_qos_resume_latency_us": "0\n",
    f"{CPU}/cpu10/power/pm_qos_resume_latency_us": "0\n",
    f"{CPU}/cpu0/cpuidle/state0/disable": "0\n",
    f"{CPU}/cpu0/cpuidle/state1/disable": "1\n",
    "proc/irq/9/smp_affinity_list": "0-3\n",
    "proc/irq/9/acpi/x": "",
    "proc/irq/27/smp_affinity_list": "0-3\n",
    "proc/irq/120/smp_affinity_list": "2\n",
    "proc/irq/120/nvme0q1/x": "",
    "proc/irq/default_smp_affinity": "f\n",
    "sys/class/net/eth0/ifindex": "4\n",
    "sys/class/net/eth0/queues/rx-0/rps_cpus": "00000000,0000000e\n",
    "sys/class/net/eth0/queues/tx-0/xps_cpus": "1\n",
    "sys/class/net/lo/queues/rx-0/rps_cpus": "0\n",
    "sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled": "always inherit madvise [never]\n",
    "sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled": "always [inherit] madvise never\n",
    "sys/kernel/mm/lru_gen/enabled": "0x0007\n",
    "sys/kernel/debug/sched/preempt": "none voluntary (full)\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


@pytest.fixture
def access(root: Path) -> dict[str, Adapter]:
    return adapters(root)


@pytest.fixture
def here(access: dict[str, Adapter]) -> Catalogue:
    return Catalogue(load(), access)


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ("cpu.governor", ("policy0", "policy4")),
        ("cpu.scaling_max_freq", ("policy0",)),
        ("cpu.resume_latency_us", ("0", "10")),
        ("cpu.energy_perf_bias", ()),
        ("cpu.idle_disable", ("cpu0/state0", "cpu0/state1")),
        ("irq.affinity", ("9", "120")),
        ("queue.rps_cpus", ("eth0/rx-0",)),
        ("queue.xps_cpus", ("eth0/tx-0",)),
        ("mthp.enabled", ("2048kB", "64kB")),
        ("mthp.shmem_enabled", ()),
    ],
)
def test_the_instances_are_what_is_there(here: Catalogue, entry: str, names: tuple[str, ...]) -> None:
    assert here.instances(entry) == names


@pytest.mark.parametrize(
    ("id", "path", "value"),
    [
        ("cpu.governor@policy0", f"{CPU}/cpufreq/policy0/scaling_governor", "powersave"),
        ("cpu.idle_disable@cpu0/state1", f"{CPU}/cpu0/cpuidle/state1/disable", 1),
        ("cpu.resume_latency_us@10", f"{CPU}/cpu10/power/pm_qos_resume_latency_us", 0),
        ("irq.affinity@120", "proc/irq/120/smp_affinity_list", "2"),
        ("irq.default_affinity", "proc/irq/default_smp_affinity", "0-3"),
        ("queue.rps_cpus@eth0/rx-0", "sys/class/net/eth0/queues/rx-0/rps_cpus", "1-3"),
        ("mglru.enabled", "sys/kernel/mm/lru_gen/enabled", 7),
        ("sched.preempt", "sys/kernel/debug/sched/preempt", "full"),
    ],
)
def test_a_name_is_one_file(
    root: Path, access: dict[str, Adapter], here: Catalogue, id: str, path: str, value: object
) -> None:
    knob = here[id]
    adapter = access[knob.adapter]
    assert adapter.address(knob) == str(root / path)
    assert adapter.parse(knob, adapter.read_text(knob)) == value


def test_flags_that_the_kernel_shows_in_hexadecimal_are_written_so(
    access: dict[str, Adapter], here: Catalogue
) -> None:
    knob = here["mglru.enabled"]
    assert access["sysfs"].format(knob, 5) == "0x0005"
    assert access["sysfs"].canonical(knob, 5) == 5


def test_a_word_in_round_brackets_is_the_chosen_one(here: Catalogue) -> None:
    assert here["sched.preempt"].choices == ("none", "voluntary", "full")
    assert repair.shown("choice", "none voluntary (full)") == "full"
    assert repair.shown("choice", "always [madvise] never") == "madvise"


def test_a_policy_has_the_governors_and_the_clock_of_its_cpus(here: Catalogue) -> None:
    assert here["cpu.governor@policy0"].choices == ("performance", "powersave")
    assert here["cpu.scaling_max_freq@policy0"].high == 3_000_000
    assert [c.partner for c in here["cpu.governor@policy0"].coupled] == [
        "cpu.energy_performance_preference@policy0"
    ]


def test_what_a_name_means_is_told_from_what_else_may_have_it(
    access: dict[str, Adapter], here: Catalogue
) -> None:
    def identity(id: str) -> str:
        knob = here[id]
        return access[knob.adapter].identity(knob)

    assert identity("irq.affinity@120") == "irq:nvme0q1@120"
    assert identity("queue.rps_cpus@eth0/rx-0") == "ifindex:4@eth0"
    assert identity("queue.rps_cpus@eth9/rx-0") == ""
    assert identity("cpu.governor@policy0") == ""


@pytest.mark.parametrize(
    "id", ["irq.affinity@..", "queue.rps_cpus@../../x", "cpu.idle_disable@cpu0/../x", "mthp.enabled@x/../.."]
)
def test_no_name_leads_elsewhere(access: dict[str, Adapter], here: Catalogue, id: str) -> None:
    knob: Knob = here[id]
    with pytest.raises(KnobRefused, match="leaves"):
        access[knob.adapter].address(knob)


@pytest.mark.kernel
def test_the_identities_of_this_host_are_there_and_those_of_others_are_not() -> None:
    access = adapters()
    here = Catalogue(load(), access)
    for entry in ("irq.affinity", "queue.rps_cpus"):
        for name in here.instances(entry):
            knob = here[f"{entry}@{name}"]
            assert reach.gone(access[knob.adapter].identity(knob)) == ""
    assert reach.gone(access["held"].identity(here["cpu.dma_latency_us"])) == ""
    assert "is another one now" in reach.gone(f"start:1@{os.getpid()}")
    assert "No such file" in reach.gone("ifindex:7@no-such-nic")
    assert "No such file" in reach.gone("irq:x@999999")
