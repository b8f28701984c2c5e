"""What a case tells of the host, of its workload and of the past, and what of it outlives the daemon."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest

from tests.actor.reviews import examined
from tests.engine.test_learning import CPU, DISK, case_of, host, world_of
from tests.engine.world import CATALOGUE, World, rule
from tests.speculate.workloads import FIRST, OTHER
from tuned_spec import engine
from tuned_spec.actor.review import NEAR, Settings, remembered
from tuned_spec.engine import events as ev
from tuned_spec.knobs.facts import host_words
from tuned_spec.ledger.priors import load, save
from tuned_spec.model import Action, Case, Op, Policy, Verdict, VerdictKind, Write
from tuned_spec.speculate import prior
from tuned_spec.speculate.foresight import Foresight
from tuned_spec.speculate.prior import RECENT, TOLD, Fate, Judged, Priors
from tuned_spec.speculate.selection import Record
from tuned_spec.speculate.signature import FEATURES, KNOWN

GROW = Policy(names=("test",), rules=(rule("grow", Action("t.plain", Op.SET, 200)),), rest_s=1.0)
WALL = 1_700_000_000.0


def working() -> World:
    """Its host does CPU work, and the rule has fired."""
    world = world_of(GROW)
    host(world, CPU)
    host(world, CPU, 1, app_p95=50.0)
    return world


def end(world: World, kind: VerdictKind, by: str, effect: float = 0.3) -> None:
    verdict = Verdict(case_of(world).id, kind, "as measured", by=by, effect=effect)
    world.feed(ev.ActorSaid(world.t, verdict))


def once_more(world: World, figures: dict[str, float] = CPU) -> Case:
    """The rule's condition clears, what is held goes back by hand, and later it fires again."""
    told = len(world.told)
    world.feed(ev.Pause(world.t, restore=True))
    world.feed(ev.Resume(world.t))
    host(world, figures, 30, app_p95=1.0)
    host(world, figures, 2, app_p95=50.0)
    assert any(isinstance(m, Case) for m in world.told[told:]), world.kinds()
    return case_of(world)


def test_a_case_tells_of_host_and_workload() -> None:
    setup = engine.Setup.of(GROW, CATALOGUE, host={"kernel": "6.12"})
    world = world_of(GROW)
    world.state = msgspec.structs.replace(world.state, setup=setup)
    host(world, CPU)
    host(world, CPU, 1, app_p95=50.0)
    case = case_of(world)
    assert case.host == {"kernel": "6.12"}
    assert set(case.signature) <= set(FEATURES) and case.signature["queue"] > case.signature["stall"]
    assert case.past == ()


@pytest.mark.parametrize(
    ("kind", "fate"), [(VerdictKind.CONFIRM, "confirmed"), (VerdictKind.REJECT, "rejected")]
)
def test_what_became_of_it_is_told_the_next_time(kind: VerdictKind, fate: str) -> None:
    world = working()
    first = case_of(world).id
    end(world, kind, "trial and model")
    (past,) = once_more(world).past
    assert (past.trial, past.fate, past.by, past.gain) == (first, fate, "trial and model", 0.3)
    assert past.writes == (Write("t.plain", 200),)
    assert past.distance is not None and past.distance < KNOWN
    assert past.age_s > 0


def test_under_another_workload_it_is_told_as_far_away() -> None:
    world = working()
    end(world, VerdictKind.REJECT, "model")
    (past,) = once_more(world, DISK).past
    assert past.distance is not None and past.distance > KNOWN


def test_judged_twice_the_same_it_is_answered_from_memory() -> None:
    """What the engine tells is what the actor goes by."""
    world = working()
    end(world, VerdictKind.CONFIRM, "trial and model")
    case = once_more(world)
    assert remembered(case, examined(case), Settings()) is None, "once is not often"
    end(world, VerdictKind.CONFIRM, "trial and model")
    case = once_more(world)
    verdict = remembered(case, examined(case), Settings())
    assert verdict is not None and verdict.by == "trial and memory"
    assert f"as judged 2 times before, last {case.past[0].trial}" in verdict.reason
    assert remembered(case, examined(case, VerdictKind.REJECT), Settings()) is None
    host(world, DISK, 10)
    end(world, VerdictKind.CONFIRM, "trial and model")
    elsewhere = once_more(world, DISK)
    assert remembered(elsewhere, examined(elsewhere), Settings()) is None


def test_an_answer_from_memory_is_no_judgement_of_its_own() -> None:
    world = working()
    end(world, VerdictKind.CONFIRM, "trial and memory")
    assert once_more(world).past == ()


def test_silence_is_no_judgement() -> None:
    world = working()
    world.t += 1000.0
    world.feed(ev.Ticked(world.t))
    assert world.state.learned.priors.recent == ()


# ------------------------------------------------------------------------------- which ones


def one(n: int, **more: object) -> Judged:
    facts: dict[str, object] = {
        "writes": (Write("vm.swappiness", 10),),
        "fate": Fate.CONFIRMED,
        "wall": WALL + n,
    }
    return Judged(trial=f"t{n}", rule="r", **{"by": "model", "signature": FIRST, **facts, **more})  # type: ignore[arg-type]


def priors(*judged: Judged) -> Priors:
    found = Priors()
    for entry in judged:
        found = prior.judged(found, entry)
    return found


def test_the_nearest_come_first_and_are_few() -> None:
    known = priors(*(one(n, signature=OTHER if n % 2 else FIRST) for n in range(8)), one(9, signature=None))
    past = prior.past(known, ["vm.swappiness"], FIRST, WALL + 100)
    assert len(past) == TOLD
    distances = [math.inf if p.distance is None else p.distance for p in past]
    assert distances == sorted(distances) and distances[0] == 0.0
    assert [p.age_s for p in past][:4] == [94.0, 96.0, 98.0, 100.0]


def test_of_the_near_ones_this_very_change_is_told_before_others() -> None:
    same, other = (Write("vm.swappiness", 10),), (Write("vm.swappiness", 99),)
    known = priors(one(1, writes=same), *(one(n, writes=other) for n in range(2, 20)))
    told = [past.writes for past in prior.past(known, ["vm.swappiness"], FIRST, WALL, same)]
    assert told == [same, *[other] * (TOLD - 1)]


def test_other_knobs_are_not_told() -> None:
    assert prior.past(priors(one(1)), ["vm.dirty_ratio"], FIRST, WALL) == ()


def test_without_a_workload_there_is_no_distance() -> None:
    assert [p.distance for p in prior.past(priors(one(1)), ["vm.swappiness"], None, WALL)] == [None]


def test_only_the_latest_are_kept_and_one_trial_counts_once() -> None:
    known = priors(*(one(n) for n in range(RECENT + 10)), one(RECENT + 9))
    assert [j.trial for j in known.recent] == [f"t{n}" for n in range(10, RECENT + 10)]


def test_they_outlive_the_daemon(tmp_path: Path) -> None:
    known = priors(one(1), one(2, signature=None, gain=0.5, fate=Fate.REJECTED, writes=(Write("a", (1, 2)),)))
    assert save(tmp_path, known, Record(), Foresight()) == ""
    assert load(tmp_path, WALL).priors == known


def test_near_means_the_same_to_actor_and_speculator() -> None:
    assert NEAR == KNOWN


# ------------------------------------------------------------------------------- host facts


def test_the_host_in_words(tmp_path: Path) -> None:
    here = host_words()
    assert here["kernel"] and "online" in here["cpus"] and here["ram"].endswith("GiB")
    assert all(words and words.isprintable() for words in here.values())
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nSwapTotal: 1048576 kB\n")
    (tmp_path / "proc/cpuinfo").write_text(
        "model name\t: Old One\nflags\t\t: fpu hypervisor\n\nmodel name : No"
    )
    (tmp_path / "sys/class/dmi/id").mkdir(parents=True)
    (tmp_path / "sys/class/dmi/id/sys_vendor").write_text("QEMU\n")
    assert host_words(tmp_path) == {
        "cpus": "Old One",
        "ram": "8.0 GiB",
        "swap": "1.0 GiB",
        "machine": "QEMU",
        "virtual": "guest of a hypervisor",
    }
