"""A catalogue small enough to read beside the tests, with one knob of each shape and coupling."""

from __future__ import annotations

from tuned_spec.model import Coupling, CouplingKind, Knob, KnobType


def _knob(id: str, unit: str, *, type: KnobType = KnobType.INT, **more: object) -> Knob:
    return Knob(id, "sysctl", id.replace(".", "/"), type, unit, "for tests", "tests", **more)  # type: ignore[arg-type]


def _coupled(partner: str, kind: CouplingKind) -> tuple[Coupling, ...]:
    return (Coupling(partner, kind),)


CATALOGUE = {
    knob.id: knob
    for knob in (
        _knob("vm.swappiness", "", low=0, high=200),
        *(
            _knob(f"task.nice@{instance}", "", low=-20, high=19, per="task", instance=instance)
            for instance in ("exe=redis*", "exe=*", "nginx", "12.345")
        ),
        _knob("block.depth@../vda", "", low=0, high=9, per="disk", instance="../vda"),
        _knob(
            "vm.dirty_ratio",
            "percent",
            low=0,
            high=100,
            coupled=_coupled("vm.dirty_bytes", CouplingKind.ZEROES),
        ),
        _knob(
            "vm.dirty_background_ratio",
            "percent",
            low=0,
            high=100,
            coupled=_coupled("vm.dirty_ratio", CouplingKind.ORDERED),
        ),
        _knob(
            "vm.dirty_bytes",
            "bytes",
            low=8192,
            high=1 << 40,
            quantum=4096,
            coupled=_coupled("vm.dirty_ratio", CouplingKind.ZEROES),
        ),
        _knob("vm.dirty_writeback_centisecs", "centisecs", low=0, high=100_000),
        _knob("vm.min_free_kbytes", "kB", low=1024, high=1 << 24),
        _knob("net.core.somaxconn", "connections", low=16, high=65535),
        _knob(
            "net.ipv4.tcp_rmem",
            "bytes",
            type=KnobType.INTS,
            low=4096,
            high=1 << 30,
            fields=("min", "default", "max"),
        ),
        _knob("net.ipv4.tcp_slow_start_after_idle", "", type=KnobType.BOOL),
        _knob("mm.thp", "", type=KnobType.CHOICE, choices=("always", "madvise", "never")),
        _knob(
            "block.scheduler",
            "",
            type=KnobType.CHOICE,
            choices=("none", "bfq"),
            coupled=_coupled("block.nr_requests", CouplingKind.RESETS),
        ),
        _knob("block.nr_requests", "requests", low=4, high=1024),
        _knob("kernel.poll", "ns", low=0, high=1_000_000),
        _knob("net.mem", "pages", low=0, high=1 << 30),
    )
}

METRICS = frozenset(
    {"psi.cpu.some", "psi.memory.some", "cpu.blocked", "cpu.busy", "vm.allocstall_per_s", "tcp.retrans_share"}
    | {
        "tcp.listen_overflows_per_s",
        "disk.util@*",
        "mem.dirty_bytes",
        "cgroup.psi.cpu.some@system.slice/nginx.service",
    }
)


def uid_of(user: str) -> int:
    return {"root": 0, "www-data": 33}[user]


FACTS = {"page": 4096.0, "ram": 16.0 * (1 << 30), "cpus": 4.0}
