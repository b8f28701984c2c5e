"""The frozen nouns that every room speaks in.

Owns the shape of data, nothing else: no I/O, no clock, no import of ours. Times are seconds of
CLOCK_BOOTTIME as float; durations are seconds as float and end in `_s`; shares are 0..1 unless a
name ends in `_pct`. Metrics are a flat mapping from a dotted name to a float.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

# A knob's value in canonical form: what the kernel would show, typed. A tuple is a file of several
# numbers (`net.ipv4.tcp_rmem`); a string is one word of a bracketed choice (`madvise`).
Value = int | str | tuple[int, ...]
UNLIMITED = 2**63 - 1  # what a knob's `max_word` stands for
Metrics = Mapping[str, float]


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Immutable, comparable; encodes to JSON and back with msgspec."""


# ---------------------------------------------------------------------------------- knobs


class KnobType(StrEnum):
    INT = "int"  # one number
    INTS = "ints"  # several numbers in one file, `fields` names them
    CHOICE = "choice"  # one word out of `choices`, shown bracketed or bare
    BOOL = "bool"  # 0 or 1 (or N and Y)
    WORDS = "words"  # several words in the kernel's order, one blank between (an allowed list)
    CPUS = "cpus"  # a set of CPUs, as a list: `0-3,5`; "" is none
    CPUMASK = "cpumask"  # the same, which the kernel shows and takes as a hexadecimal mask


class Risk(StrEnum):
    LOW = "low"  # wrong values cost some speed
    MEDIUM = "medium"  # wrong values can stall or starve a workload
    HIGH = "high"  # wrong values can lose connections or memory: never without a person


class Effect(StrEnum):
    """When a written value starts to count."""

    AT_ONCE = "at_once"
    NEW_SOCKETS = "new_sockets"
    NEW_LISTENERS = "new_listeners"
    NEW_PROCESSES = "new_processes"
    NEW_SESSIONS = "new_sessions"
    NEW_FILES = "new_files"
    SLOWLY = "slowly"  # caches, khugepaged, KSM: carries over between arms


class CouplingKind(StrEnum):
    ZEROES = "zeroes"  # writing this one sets the partner to 0, and the other way round
    RESETS = "resets"  # writing this one gives the partner a value of the kernel's choice
    ORDERED = "ordered"  # the kernel demands this one <= the partner


class Coupling(Frozen, frozen=True):
    partner: str
    kind: CouplingKind


class Knob(Frozen, frozen=True):
    """One entry of the catalogue: data about a knob, no access to it.

    An entry with `per` is a template, of which this host has one for each disk, NIC, cgroup and so on; a
    concrete one has `instance`, its id is `ENTRY@INSTANCE`.
    `target` is a path below the adapter's root (`vm/swappiness` below /proc/sys); `{}` is the instance.
    `low`/`high` bound a number, or each element of a tuple alike; None is unbounded.
    `quantum`: the kernel rounds down to a multiple of it (a page, for byte counts held as pages).
    `power_of_two`: the kernel rounds up to one, or refuses what is none.
    `source` says where range, unit and behaviour are from.
    """

    id: str
    adapter: str
    target: str
    type: KnobType
    unit: str
    summary: str
    source: str
    low: int | None = None
    high: int | None = None
    fields: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    choices_from: str = ""  # a file beside the target that lists the choices this host offers
    quantum: int = 1
    power_of_two: bool = False
    coupled: tuple[Coupling, ...] = ()
    risk: Risk = Risk.LOW
    scope: str = "host"  # host, netns
    effect: Effect = Effect.AT_ONCE
    settle_s: float = 0.5  # what is thrown away after a write
    dwell_s: float = 1.0  # what one measurement window lasts at least
    alternable: bool = True  # may A and B be alternated, or does the effect carry over?
    irreversible_when: str = ""  # e.g. a one-way switch; such knobs are refused
    per: str = ""  # what the host has one such knob of each; "": one in all
    instance: str = ""
    cap: str = ""  # the physical cap beside `high`: `25% of ram`
    max_word: str = ""  # how the kernel shows and takes UNLIMITED
    side: str = ""  # what else a write does
    kernels: str = ""  # which kernels have it, in words
    tried: tuple[str, ...] = ()  # kernels on which it was written, read back and put back
    blocking: bool = False  # a write may wait for a long time: it is done off the loop
    stateless: bool = False  # a write is a deed (memory.reclaim): nothing stays, nothing is read back


def entry_of(knob: str) -> str:
    """The catalogue entry of a concrete knob's id."""
    return knob.partition("@")[0]


class Write(Frozen, frozen=True):
    knob: str
    value: Value


# A change is a tuple of writes, applied and undone as one transaction.
Writes = tuple[Write, ...]


# -------------------------------------------------------------------------------- metrics


class Sample(Frozen, frozen=True):
    """One gauge received on the metric socket, or one figure read from the kernel."""

    name: str
    value: float
    t: float
    uid: int = 0


class Observation(Frozen, frozen=True):
    """What is new at time `t`: rates and gauges. Names not in `values` are unknown, not zero."""

    t: float
    values: dict[str, float]


# ------------------------------------------------------------------------------- policies


class Way(StrEnum):
    """Which way a metric should move."""

    DOWN = "down"
    UP = "up"


class Condition(Frozen, frozen=True):
    """`metric op level` for `for_s` seconds on end; cleared when the metric is past `clear` again.

    `op` is ">" or "<". `fallback` stands in while this host cannot deliver `metric` (PSI off).
    """

    metric: str
    op: str
    level: float
    clear: float
    for_s: float = 0.0
    fallback: Condition | None = None


class Op(StrEnum):
    SET = "set"
    MULTIPLY = "multiply"
    ADD = "add"
    TOWARD = "toward"  # `step` of the way (0 < step <= 1) toward `value` each time


class Action(Frozen, frozen=True):
    """What a rule does to one knob. `field` picks one element of a tuple (0-based)."""

    knob: str
    op: Op
    value: Value | float
    step: float = 1.0
    field: int | None = None
    only: Way | None = None  # never moves the number the other way (TuneD's `>` and `<`)


class Expect(Frozen, frozen=True):
    """The metric that must move for the change to be kept, which way, and by how much at least.

    `min_effect` is a relative change: 0.05 is five percent.
    """

    metric: str
    way: Way
    min_effect: float = 0.05


class Guard(Frozen, frozen=True):
    """A metric that must not get worse by more than `margin` (relative); `better` is its good way."""

    metric: str
    better: Way
    margin: float = 0.10


class Rule(Frozen, frozen=True):
    """One guess: when to make it, what to write, how to tell whether it was right."""

    id: str
    when: tuple[Condition, ...]  # all must hold
    do: tuple[Action, ...]  # one transaction
    expect: Expect
    reason: str
    source: str
    guard: tuple[Guard, ...] = ()
    cooldown_s: float = 60.0
    lease_s: float | None = None  # None: as long as a trial of such windows takes
    confidence: float = 0.5
    origin: str = ""  # file:line
    settle_s: float | None = None  # None: what its slowest knob needs
    dwell_s: float | None = None


class Span(Frozen, frozen=True):
    """The room of one number that a search may move: a whole knob, or one `field` of a tuple."""

    knob: str
    low: int
    high: int
    field: int | None = None
    quantum: int = 1


class Climb(Frozen, frozen=True):
    """A search for the best setting of one to four numbers while the workload runs.

    It stops where less than `expect.min_effect` is to be gained. `step`: one move changes a number by at
    most this factor. `every_s`: one move a window of this many seconds.
    """

    id: str
    spans: tuple[Span, ...]
    expect: Expect
    reason: str
    source: str
    guard: tuple[Guard, ...] = ()
    every_s: float = 1.0
    step: float = 4.0
    recheck_s: float = (
        60.0  # its first rest; each that follows one without progress is twice as long, up to 16 times
    )
    confidence: float = 0.5
    origin: str = ""  # file:line
    settle_s: float | None = None  # None: what its slowest knob needs
    dwell_s: float | None = None


class Suggest(Frozen, frozen=True):
    """What an actor that speculates, too, may propose changes of, and by what they would be judged.

    `knobs`: names, or globs over entries and instances (`vm.*`, `block.read_ahead_kb@nvme*`). It is asked
    every `every_s`, while nothing of it is on trial.
    """

    knobs: tuple[str, ...]
    expect: tuple[Expect, ...]
    guard: tuple[Guard, ...] = ()
    every_s: float = 60.0
    origin: str = ""  # file:line


class Limit(Frozen, frozen=True):
    """A policy's narrowing of one knob, or of all the knobs of one entry. Numbers only where it is a number.

    `step_ratio`: one change moves the value by at most this factor (2.0: halve or double).
    `step_abs`: one change moves it by at most this much; where both are given the wider one counts,
    so that a knob at 0 can leave it. `bound_ratio`: never further than this factor from the original.
    """

    knob: str
    low: int | None = None
    high: int | None = None
    choices: tuple[str, ...] = ()
    step_ratio: float | None = None
    step_abs: int | None = None
    bound_ratio: float | None = None
    cooldown_s: float = 0.0
    origin: str = ""


class MetricOwner(Frozen, frozen=True):
    """An application metric that may drive writes, and the one uid whose samples count."""

    name: str
    uid: int
    stale_s: float = 10.0
    origin: str = ""


class Mode(StrEnum):
    OBSERVE = "observe"  # nothing is written
    LOSSLESS = "lossless"  # only what the actor asked for is written
    LOSSY = "lossy"  # written first, judged after


class Asking(StrEnum):
    """When a person is asked."""

    AFTER_TRIAL = "after_trial"  # with the evidence; what the trial writes goes back if they say no
    BEFORE_TRIAL = "before_trial"  # nothing is written before they say yes


class Side(StrEnum):
    """Where a knob rests while a person is asked."""

    OLD = "old"
    NEW = "new"


class Approval(Frozen, frozen=True):
    """Which changes a person must say yes to: of knobs of the class `risk` and above, of `knobs` (ids or
    entries, or globs over them), or by `rules` (rules and searches). No answer in `for_s` is a no."""

    risk: Risk | None = None
    knobs: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    ask: Asking = Asking.AFTER_TRIAL
    wait_at: Side = Side.OLD
    for_s: float = 14_400.0


class Policy(Frozen, frozen=True):
    """What the loaded policy files come to, merged."""

    names: tuple[str, ...]
    mode: Mode = Mode.OBSERVE
    rules: tuple[Rule, ...] = ()
    climbs: tuple[Climb, ...] = ()
    suggest: Suggest | None = None
    limits: tuple[Limit, ...] = ()
    metrics: tuple[MetricOwner, ...] = ()
    cgroups: tuple[str, ...] = ()  # paths below the cgroup root whose pressure is sensed
    changes_per_minute: int = 6
    toggles_per_minute: int = 120  # a trial's own budget
    rest_s: float = 600.0  # a rejected guess rests this long, twice as long each time
    alpha: float = 0.05  # the most a change without effect may be confirmed
    max_pairs: int = 24  # a trial that has not decided by then rejects
    ahead: int = 2  # lossless: of the actor's next probes so many are run ahead; 0: none
    ahead_depth: int = 2  # and of what may follow those, so many deep
    ahead_price: float = 0.2  # seconds of waiting that a second of probing may cost
    approval: Approval = Approval()


# ------------------------------------------------------------------------ guesses, trials


class Offer(Frozen, frozen=True):
    """A change proposed from outside the policy: by a person, by another agent, by a model.

    `source` is one word for who proposes it; `reason` is theirs, too: foreign text.
    """

    source: str
    writes: Writes
    expect: Expect
    reason: str
    guard: tuple[Guard, ...] = ()
    confidence: float = 0.5


class Proposal(Frozen, frozen=True):
    """A guess, before the envelope has seen it. Pure data: what to write, why, how to judge it."""

    rule: str
    writes: Writes
    reason: str
    seen: dict[str, float]  # the rule's metrics at that moment
    expect: Expect
    guard: tuple[Guard, ...] = ()
    lease_s: float = 120.0
    cooldown_s: float = 60.0
    confidence: float = 0.5
    settle_s: float = 0.5
    dwell_s: float = 1.0


class Refusal(Frozen, frozen=True):
    """The envelope's no. `code` is stable, for scripts and for counting."""

    code: str
    knob: str
    what: str


class Arm(StrEnum):
    A = "A"  # as before the change
    B = "B"  # as changed
    C = "C"  # another value that the actor wants to try, inside the envelope


# ------------------------------------------------- daemon and actor: the door between them
#
# Each message is one msgspec struct with a `type` tag, one JSON document, framed by a four-byte
# big-endian length. An actor can only answer with data: names of cases, arms, values, numbers.


class Allowed(Frozen, frozen=True):
    """What the actor may choose for one knob: its envelope at the time of the case."""

    knob: str
    low: int | None = None
    high: int | None = None
    choices: tuple[str, ...] = ()


class Past(Frozen, frozen=True):
    """A change of the same knobs that was judged before, and what came of it.

    `distance` is that of its workload's signature from the present one (`speculate.signature`; None: not
    known), `gain` the relative effect in the good direction, `by` who judged ("trial", "model", "person").
    """

    trial: str
    rule: str
    writes: Writes
    fate: str  # confirmed, rejected, reverted
    age_s: float
    gain: float | None = None
    distance: float | None = None
    by: str = ""


class Case(Frozen, frozen=True, tag="case"):
    """Everything an actor needs to judge one change. Self-contained."""

    id: str  # the trial's id
    mode: Mode
    rule: str
    reason: str
    knobs: tuple[Knob, ...]
    before: Writes
    after: Writes
    seen: dict[str, float]
    expect: Expect
    guard: tuple[Guard, ...]
    allowed: tuple[Allowed, ...]
    settle_s: float
    dwell_s: float
    alternable: bool
    fresh_instances: bool  # effect only on new sockets, processes, sessions ...: settle must cover them
    lease_s: float  # a verdict after this is too late
    alpha: float
    max_pairs: int
    history: dict[str, tuple[float, ...]]  # recent values of the named metrics, oldest first, A only
    workload_age_s: float | None = None  # how long this workload has been going on, as far as is known
    review_s: float = 0.0  # of the lease, what is kept for a review after the measurements
    host: dict[str, str] = {}  # facts in words: kernel, cpus, ram, ...
    signature: dict[str, float] = {}  # feature -> log2 of a ratio (`speculate.signature`)
    past: tuple[Past, ...] = ()  # nearest workload first


class Measure(Frozen, frozen=True, tag="measure"):
    """Actor asks: hold this arm, throw away `settle_s`, then collect the metrics for `dwell_s`."""

    case: str
    seq: int
    arm: Arm
    settle_s: float
    dwell_s: float
    writes: Writes = ()  # arm C only


class Probe(Frozen, frozen=True, tag="probe"):
    """Actor asks: a read-only question by name."""

    case: str
    seq: int
    name: str
    args: dict[str, str] = {}


class VerdictKind(StrEnum):
    CONFIRM = "confirm"
    OVERWRITE = "overwrite"
    REJECT = "reject"


class Narrow(Frozen, frozen=True, tag="narrow"):
    """Advice: the searches of this policy look for this knob's best value between these two only."""

    knob: str
    low: int
    high: int
    for_s: float
    reason: str = ""


class RestRule(Frozen, frozen=True, tag="rest_rule"):
    """Advice: this rule makes no guess for so long, while the workload is like the present one."""

    rule: str
    for_s: float
    reason: str = ""


class Prefer(Frozen, frozen=True, tag="prefer"):
    """Advice: of the guesses that could be made, those that move this knob come first."""

    knob: str
    for_s: float
    reason: str = ""


Strategy = Narrow | RestRule | Prefer


class Verdict(Frozen, frozen=True, tag="verdict"):
    """The actor's one answer to a case.

    `effect` is the relative change of the expected metric, B against A, in the good direction
    (0.5: half as slow, or 50% more, see `actor.trial`); `low`/`high` its interval; `e_value` the
    evidence against "no effect"; `claim` says how strong: "alternated", "fresh", "before_after", "none".
    """

    case: str
    kind: VerdictKind
    reason: str
    writes: Writes = ()  # overwrite only
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    e_value: float | None = None
    pairs: int = 0
    claim: str = "none"
    confidence: float = 0.5
    guards: dict[str, str] = {}  # metric -> "held", "worse", "unclear", with figures
    by: str = "trial"  # whose word it is: "trial", "model", "trial and model"
    opinions: dict[str, str] = {}  # who -> what they said, where several were heard
    strategy: tuple[Strategy, ...] = ()  # advice to the speculator, at most 4; it expires


class Hello(Frozen, frozen=True, tag="hello"):
    """The actor's first message, after it has dropped its privileges.

    `review_s`: how long it may think after the last measurement; each lease is so much longer. `speculates`:
    it answers an Outlook.
    """

    kind: str
    pid: int
    uid: int
    review_s: float = 0.0
    speculates: bool = False


class Consulted(Frozen, frozen=True, tag="consulted", omit_defaults=False):
    """Actor reports one exchange with a model, for the record; nothing answers it.

    `system` is a digest of the instructions, `prompt` what the model was told of the case, `exchange` what
    was said after that, alternating model and answer; foreign text in them is marked and without control
    characters, secrets are starred out. `outcome` says what came of it in a few words.
    """

    case: str
    model: str
    system: str
    prompt: str
    exchange: tuple[str, ...]
    outcome: str
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0  # in the currency of the configured prices
    seconds: float = 0.0
    calls: int = 1
    probes: int = 0  # that it asked for


class Option(Frozen, frozen=True):
    """A knob that a model may propose a value for: what it holds now and what is allowed."""

    knob: Knob
    value: Value
    allowed: Allowed


class Outlook(Frozen, frozen=True, tag="outlook"):
    """Daemon asks an actor that speculates, too: is there a change worth trying? Self-contained."""

    id: str
    host: dict[str, str]
    signature: dict[str, float]
    metrics: dict[str, tuple[float, ...]]  # recent values, oldest first
    options: tuple[Option, ...]
    expect: tuple[Expect, ...]  # by one of these a change would be judged
    past: tuple[Past, ...] = ()


class Suggestion(Frozen, frozen=True, tag="suggestion"):
    """Actor's answer to an Outlook: one change, judged by `metric`; or none (no writes), with the reason."""

    outlook: str
    writes: Writes
    metric: str
    reason: str
    confidence: float = 0.5


class Measurement(Frozen, frozen=True, tag="measurement"):
    """Daemon answers a Measure: raw samples of each metric in the window, oldest first, at most 512."""

    case: str
    seq: int
    arm: Arm
    samples: dict[str, tuple[float, ...]]
    error: str = ""  # why nothing was measured: "envelope: out_of_range ...", "knob refused ..."


class ProbeAnswer(Frozen, frozen=True, tag="probe_answer"):
    case: str
    seq: int
    answer: str
    error: str = ""


class Cancel(Frozen, frozen=True, tag="cancel"):
    """Daemon says: this case is over (lease ended, foreign write, stop); do not answer."""

    case: str
    reason: str


class Move(Frozen, frozen=True):
    knob: str
    old: Value
    new: Value


class Notice(Frozen, frozen=True, tag="notice"):
    """Daemon says what a person should know of a question to them; nothing answers it.

    `event` is "pending" (they are asked), "decided" or "ended" (without an answer), `what` says it in words;
    `reason` is the rule's, `figures` are the verdict's. `approve` and `reject` are the commands to type while
    it is pending.
    """

    event: str
    trial: str
    rule: str
    moves: tuple[Move, ...]
    reason: str
    what: str
    asked: Asking
    waits_at: Side
    by: str = ""  # whose verdict it is that a person is asked about
    claim: str = ""
    figures: dict[str, float] = {}
    left_s: float = 0.0
    approve: str = ""
    reject: str = ""


FromActor = Hello | Measure | Probe | Consulted | Verdict | Suggestion
ToActor = Case | Measurement | ProbeAnswer | Cancel | Notice | Outlook


# --------------------------------------------------------- what the ledger says it has done


class RowStatus(StrEnum):
    """The state of one knob in the undo journal."""

    OPEN = "open"  # provisional: goes back unless confirmed
    HELD = "held"  # confirmed: follows on_stop
    FOREIGN = "foreign"  # somebody else wrote it: theirs now
    RESTORED = "restored"  # put back, checked
    VOID = "void"  # its identity (netns, device) is gone, or another boot
    IN_DOUBT = "in_doubt"  # a write has not come back


class Outcome(Frozen, frozen=True):
    """What one restore of one knob came to; the same fields in every place that restores.

    `status`: "restored", "unchanged" (was already the original), "foreign", "void", "failed".
    """

    knob: str
    found: str
    original: str
    status: str
    why: str = ""


class ForeignWrite(Frozen, frozen=True):
    """Somebody else's value on a knob of ours."""

    knob: str
    ours: Value
    found: Value
    writer: str = "unknown"


class Receipt(Frozen, frozen=True):
    """The journal's proof that the way back from one write is on record.

    Only `ledger.journal` makes one (a test over the AST keeps it so) and every adapter's `write`
    demands one, so that nothing reaches the kernel unjournaled.
    """

    row: int
    knob: str
    target: str
    text: str  # exactly what may be written


# ------------------------------------------------------------------------------ history


class Record(Frozen, frozen=True):
    """One line of the history: something was decided, done, or found.

    `kind` is one of the keys of `RECORD_KINDS`; `data` holds its details, JSON only.
    """

    kind: str
    t: float
    trial: str = ""
    rule: str = ""
    knobs: tuple[str, ...] = ()
    data: dict[str, object] = {}


# kind -> what `data` holds
RECORD_KINDS = {
    "start": "pid, mode, policy (names), actor, alpha, boot_id, version",
    "stop": "why, outcomes (list of Outcome)",
    "would": "observe mode: writes, reason, seen; as `proposed`, but nothing is done",
    "suggested": "writes (none: nothing), metric, reason, confidence, outlook: a model that speculates",
    "proposed": "writes, before, reason, source, origin, seen, expect, guard, confidence, lease_s",
    "refused": "code, what, writes, times (folded repeats)",
    "applied": "before (writes), after (writes, as read back), rounded (list of knobs), seconds",
    "failed": "op, errno, what: the kernel refused; everything of that change was put back",
    "verdict": "the Verdict as a mapping, and `from` (actor kind)",
    "pending": "the Notice as a mapping: a person is asked",
    "decided": "what, approve, uid, name, remark: a person's answer",
    "consulted": "the Consulted as a mapping, and before, after, allowed: a model was asked",
    "probed": "name, args, seconds, error, bytes (of the answer), ahead (run before it was asked): a probe",
    "advised": "by, taken (list of what, until (wall), item), not_taken (sentences), dropped (likewise)",
    "ignored": "what: a verdict or message that could not be used, and why",
    "confirmed": "writes held",
    "overwritten": "writes held instead",
    "reverted": "why (rejected, lease, actor died, paused, stop, foreign, fault), outcomes",
    "foreign": "ours, found, writer",
    "workload": "what: another workload began, as far as the host's figures tell",
    "climbed": "writes, what, windows: a search ended here, and why",
    "actor": "what: started, died, restarted, gave up",
    "fault": "what, hint: a journal, sensor or sender that failed",
}
