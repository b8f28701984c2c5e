"""What can happen to the engine, and what it can ask for: the two unions that `step` maps between.

Owns their shapes only. Each event carries its time `t` (seconds of CLOCK_BOOTTIME).
"""

from __future__ import annotations

from tuned_spec.model import (
    Consulted,
    ForeignWrite,
    Frozen,
    Measure,
    Offer,
    Outcome,
    Probe,
    Record,
    Refusal,
    Rule,
    Suggestion,
    ToActor,
    Value,
    Verdict,
    Writes,
)
from tuned_spec.speculate.foresight import Foresight
from tuned_spec.speculate.prior import Priors
from tuned_spec.speculate.selection import Record as GuessRecord

# ---------------------------------------------------------------------------------- events


class Observed(Frozen, frozen=True):
    """New metrics: from the host's own files (`host`), or gauges that programs sent."""

    t: float
    values: dict[str, float]
    host: bool = True


class Ticked(Frozen, frozen=True):
    """Time has passed."""

    t: float


class Looked(Frozen, frozen=True):
    """The answer to Look: what the knobs of a rule hold now, or why one cannot be used."""

    t: float
    rule: str
    live: dict[str, Value]
    refusal: Refusal | None = None


class Applied(Frozen, frozen=True):
    """The ledger wrote a trial's values and read them back. `before` is what they replaced."""

    t: float
    trial: str
    before: Writes
    after: Writes
    rounded: tuple[str, ...] = ()
    seconds: float = 0.0


class ApplyFailed(Frozen, frozen=True):
    """The kernel or the journal refused; everything of that transaction is as it was before it, unless
    what had been written could not be taken back (`left`)."""

    t: float
    trial: str
    knob: str
    code: int
    what: str
    left: bool = False


class Reverted(Frozen, frozen=True):
    """The answer to Revert and RevertAll (trial ""): what the ledger found and did."""

    t: float
    trial: str
    outcomes: tuple[Outcome, ...]
    why: str = ""


class ForeignFound(Frozen, frozen=True):
    t: float
    writes: tuple[ForeignWrite, ...]


class ActorSaid(Frozen, frozen=True):
    t: float
    message: Measure | Probe | Consulted | Verdict | Suggestion


class Probed(Frozen, frozen=True):
    """The answer to RunProbe, or why there is none; `seconds` is how long it took."""

    t: float
    token: int
    answer: str
    error: str = ""
    seconds: float = 0.0


class ActorChanged(Frozen, frozen=True):
    t: float
    alive: bool
    what: str
    review_s: float = 0.0
    speculates: bool = False


class JournalChanged(Frozen, frozen=True):
    t: float
    ok: bool
    what: str = ""


class Pause(Frozen, frozen=True):
    """The owner wants no new changes; with `restore`, what is changed goes back now."""

    t: float
    restore: bool = False
    knobs: tuple[str, ...] = ()  # restore only these; empty: all


class Resume(Frozen, frozen=True):
    """Changes may be made again; a knob named is taken up again after a foreign write.

    `advice`: neither; what verdicts advised is dropped."""

    t: float
    knobs: tuple[str, ...] = ()
    advice: bool = False


class Planned(Frozen, frozen=True):
    """Disks, cgroups or the like came or went: these are the rules that count now, and the knobs that a model
    may propose values for."""

    t: float
    rules: tuple[Rule, ...]
    options: tuple[str, ...] = ()


class Offered(Frozen, frozen=True):
    """Somebody who is not the policy proposes a change. Answered by Answer.

    `refusal`: why it cannot be judged, as far as the daemon knows: the engine knows no host's metrics.
    """

    t: float
    offer: Offer
    refusal: Refusal | None = None


class Withdrawn(Frozen, frozen=True):
    """Whoever proposed a trial wants it undone, confirmed or not. Answered by Answer."""

    t: float
    source: str
    trial: str


class Decided(Frozen, frozen=True):
    """A person's answer to a pending question. `who` is the login name of `uid`, by the kernel's word."""

    t: float
    trial: str
    approve: bool
    uid: int
    who: str
    remark: str = ""


class Stop(Frozen, frozen=True):
    t: float
    why: str


Event = (
    Observed
    | Ticked
    | Looked
    | Applied
    | ApplyFailed
    | Reverted
    | ForeignFound
    | ActorSaid
    | Probed
    | ActorChanged
    | JournalChanged
    | Pause
    | Resume
    | Planned
    | Offered
    | Withdrawn
    | Decided
    | Stop
)

# -------------------------------------------------------------------------------- commands


class Look(Frozen, frozen=True):
    """Read these knobs now, and prove that the way back is open. Answered by Looked.

    `beside` are coupled knobs: their values are wanted too, if they can be had.
    """

    rule: str
    knobs: tuple[str, ...]
    beside: tuple[str, ...] = ()


class Apply(Frozen, frozen=True):
    """Journal, write, read back. Answered by Applied or ApplyFailed."""

    trial: str
    rule: str
    writes: Writes


class Revert(Frozen, frozen=True):
    """Put a trial's knobs back: `restore` to their originals, `hold` to what was confirmed before it.

    Answered by Reverted.
    """

    trial: str
    restore: tuple[str, ...]
    hold: Writes
    rule: str
    why: str


class RevertAll(Frozen, frozen=True):
    """Everything (or `knobs`) back to the originals. Answered by Reverted with no trial."""

    why: str
    knobs: tuple[str, ...] = ()


class Hold(Frozen, frozen=True):
    """A trial's rows are confirmed."""

    trial: str


class TakeUp(Frozen, frozen=True):
    """Forget that these knobs were foreign."""

    knobs: tuple[str, ...]


class Remember(Frozen, frozen=True):
    """Keep these over the boot."""

    priors: Priors
    record: GuessRecord
    foresight: Foresight


class SenseNow(Frozen, frozen=True):
    """Take a snapshot of the host now, so that no rate spans two arms. Answered by Observed."""


class RunProbe(Frozen, frozen=True):
    """Have a probe run, now. Answered by Probed with the same token, in whatever order."""

    token: int
    name: str
    args: dict[str, str]


class Tell(Frozen, frozen=True):
    message: ToActor


class Answer(Frozen, frozen=True):
    """To whoever offered a change or withdrew it: the trial it is, or why not."""

    source: str
    trial: str = ""
    refusal: Refusal | None = None


class Note(Frozen, frozen=True):
    record: Record


Command = (
    Look | Apply | Revert | RevertAll | Hold | TakeUp | Remember | SenseNow | RunProbe | Tell | Answer | Note
)
