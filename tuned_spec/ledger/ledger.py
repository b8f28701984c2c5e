"""The one writer of the kernel: journal, write, read back; compare, put back.

Owns the calls of Adapter.write and the meaning of a row; must not know why a knob is changed, nor what a
clock, a lease or a policy is. The journal's files belong to journal.py, compare-and-restore to repair.py.

`apply` is: read (a foreign value is refused), before-images and pending texts of the knobs and of all
their coupled partners into the journal, write, read back, settle. Killed anywhere in it, every knob shows
its original, the last value read back, or a pending text, each of which repair knows for ours. A value that
a foreign writer puts between our write and our read back is taken for the kernel's rounding of ours; it
is then put back with the rest.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from tuned_spec.errors import JournalError, KnobAbsent, KnobError, KnobInDoubt, KnobRefused
from tuned_spec.knobs import reach, tasks
from tuned_spec.knobs.adapters import Adapter
from tuned_spec.knobs.instances import concrete
from tuned_spec.ledger import repair
from tuned_spec.ledger.couplings import Couplings
from tuned_spec.ledger.eyes import Eyes
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.repair import Row
from tuned_spec.model import (
    CouplingKind,
    ForeignWrite,
    Frozen,
    Knob,
    Outcome,
    Receipt,
    Refusal,
    RowStatus,
    Value,
    Write,
    Writes,
    entry_of,
)

ROUNDS = 3  # of looking for tasks that were forked while others were written


class Scope(NamedTuple):
    """A selector that is not as it was found, whether or not it means a task just now."""

    original: Value  # what it showed at first: stands for each task's own
    value: Value  # what it was last set to
    trial: str
    rule: str
    held: str = ""  # its on_stop, once confirmed


class Plan(NamedTuple):
    """Writes, and what they come to: a selector's becomes one to each of its tasks."""

    asked: Writes
    writes: Writes
    selector_of: Mapping[str, str]  # task's knob -> the selector
    heirs: Mapping[str, Row]  # task's knob -> a row as that of the task it has inherited from
    seen: Collection[str]  # tasks that were there when this was made


class Applied(Frozen, frozen=True):
    """What one `apply` did. `before` and `after` can each be applied again (arms A and B).

    `after` is in the order that was asked for, whatever the order in which it was written.

    A knob that its partner zeroes is in neither: 0 is not a value that can be written to it.
    """

    trial: str
    before: Writes
    after: Writes
    rounded: tuple[str, ...]  # knobs that show another value than was asked for
    seconds: float


class Change:
    """One `apply` under way. `finish` says what came of it; until then only `carry_out` fills it in."""

    def __init__(
        self,
        trial: str,
        rule: str,
        plan: Plan,
        writes: Writes,
        start: float,
        rows: list[Row],
        texts: Mapping[str, str],
        was: Mapping[str, Row | None],
        receipts: Collection[Receipt],
    ) -> None:
        self.trial, self.rule, self.plan, self.writes, self.start = trial, rule, plan, writes, start
        self.rows = rows  # of all knobs in it, with every text that they may show
        self.texts, self.was = texts, was  # what they showed, and their rows, before it
        self.receipts = receipts
        self.settled: list[Row] = []
        self.error: KnobError | JournalError | OSError | None = None
        self.failed: dict[str, str] = {}  # knob -> why it could not be taken back


class Ledger:
    """`clock` gives seconds (for Applied.seconds); `checkpoint` is called with a name at every boundary
    where dying must be harmless, for tests that die there.
    """

    def __init__(
        self,
        catalogue: Mapping[str, Knob],
        adapters: Mapping[str, Adapter],
        journal: Journal,
        clock: Callable[[], float],
        checkpoint: repair.Checkpoint = repair.nothing,
    ) -> None:
        self._catalogue, self._adapters, self._journal = catalogue, adapters, journal
        self._clock, self._checkpoint = clock, checkpoint
        self._couplings = Couplings(catalogue)
        self._eyes = Eyes()
        self._scopes: dict[str, Scope] = {}
        # Of the tasks in the journal: the catalogue would keep them for ever.
        self._members: dict[str, Knob] = {}
        # Groups that a change in another thread has: nobody else writes them.
        self._under_way: set[str] = set()

    # ------------------------------------------------------------------------------- reading

    def rows(self) -> tuple[Row, ...]:
        """Every row of the journal, whatever its status."""
        return tuple(self._journal.rows.values())

    def value(self, knob: str) -> Value:
        """The live value. KnobAbsent, KnobRefused, or KnobRefused if the kernel's text makes no sense."""
        entry = self._knob(knob)
        text = self._adapters[entry.adapter].read_text(entry)
        try:
            return self._adapters[entry.adapter].parse(entry, text)
        except ValueError as e:
            raise KnobRefused(knob, "read", f"the kernel shows {text!r}: {e}", hint="report this knob") from e

    def original(self, knob: str) -> Value | None:
        """The value before our first write, if the knob is managed now."""
        if knob in self._scopes:
            return self._scopes[knob].original
        row = self._journal.rows.get(knob)
        if row is None or row.status not in repair.ACTIVE:
            return None
        return self._parsed(row.original, knob)

    def reversible(self, knob: str) -> Refusal | None:
        """Why this knob may not be written, as far as can be told without writing.

        "absent"; "read_only"; "irreversible": a one-way switch, a partner that cannot be read, or a
        pair that zero each other and are both 0 (then no write leads back).
        """
        try:
            entry = self._knob(knob)
        except KnobAbsent as e:
            return Refusal("absent", knob, e.what)
        available = self._adapters[entry.adapter].probe(entry)
        if not available.present:
            return Refusal("absent", knob, available.why)
        if not available.writable:
            return Refusal("read_only", knob, available.why)
        if entry.irreversible_when:
            return Refusal("irreversible", knob, entry.irreversible_when)
        for partner, kind in self._couplings.of(knob).items():
            if kind is CouplingKind.ORDERED:
                continue
            try:
                if kind is CouplingKind.ZEROES and self.value(knob) == 0 == self.value(partner):
                    return Refusal(
                        "irreversible", knob, f"and {partner} are both 0: no write leads back to that"
                    )
                self.value(partner)
            except KnobError as e:
                if isinstance(e, KnobAbsent) and kind is CouplingKind.RESETS:
                    continue  # another kernel's, or another I/O scheduler's: nothing to lose
                return Refusal("irreversible", knob, f"changes {partner}, which cannot be read: {e}")
        return None

    # ------------------------------------------------------------------------------- writing

    def apply(self, trial: str, rule: str, writes: Writes) -> Applied:
        """Write `writes` as one transaction of `trial`; called again, it changes the values (toggles arms).

        On a refused write all knobs of this call are put back to what they were before it, then the
        KnobRefused is raised. KnobRefused also before any write: no way back (see `reversible`), the knob
        is another open trial's, or somebody else's value is on it. JournalError: nothing was written.

        A selector is written task by task: those that it means now, and those of ours that it meant before or
        that have inherited from them. Its value at first means to each task its own original. A task that
        ends, or is somebody else's, or cannot be read, is left out; with none left the selector is absent.
        """
        change = self.begin(trial, rule, writes)
        self.carry_out(change)
        return self.finish(change)

    def begin(self, trial: str, rule: str, writes: Writes, *, aside: bool = False) -> Change:
        """`apply` up to the first write; the errors before any write are raised here.

        With `aside` the caller carries it out in another thread: its knobs are in doubt until `finish`.
        """
        self._tidy()
        for write in writes:
            new = self._is_selector(write.knob) and write.knob not in self._scopes
            if new and (refusal := self.reversible(write.knob)):
                raise _refused(refusal)
        return self._begin(trial, rule, self._plan(writes), aside)

    def join(self, among: Collection[int] | None = None) -> None:
        """Give the tasks of these processes (None: of all) what the selectors that mean them are set to now.

        JournalError: they keep their own value. A task that refuses does too.
        """
        self._tidy()
        for knob, scope in self._scopes.items():
            if scope.value == scope.original:
                continue
            late = self._plan((Write(knob, scope.value),), late=True, among=among)
            if late.writes:
                try:
                    self._late(scope.trial, scope.rule, late)
                except KnobError:
                    continue
                if scope.held:
                    self.hold(scope.trial, scope.held)

    def _late(self, trial: str, rule: str, plan: Plan) -> Mapping[str, str]:
        """A change of tasks that have come since; what they showed before."""
        change = self._begin(trial, rule, plan)
        self.carry_out(change)
        self._settle(change)
        return change.texts

    def _begin(self, trial: str, rule: str, plan: Plan, aside: bool = False) -> Change:
        start = self._clock()
        rows, texts = self._before(trial, rule, plan)
        writes = tuple(w for w in plan.writes if w.knob in texts)
        asked = [(w.knob, self._text(w.knob, w.value)) for w in writes]
        pending = self._pending(writes)
        intent = [row._replace(pending=_joined(pending.get(row.knob, []))) for row in rows]
        was = {row.knob: self._managed(row.knob) for row in rows}
        self._checkpoint("apply:before_intent")
        doubtful = [row._replace(status=RowStatus.IN_DOUBT.value) for row in intent] if aside else intent
        receipts = self._journal.intend(doubtful, asked)
        self._checkpoint("apply:after_intent")
        if aside:
            self._under_way.update(row.group for row in intent)
        return Change(trial, rule, plan, writes, start, intent, texts, was, receipts)

    def carry_out(self, change: Change) -> None:
        """The writes, and what they leave; refused ones are taken back. It touches no journal, and never
        raises for a knob: `finish` does, in the thread that has the journal."""
        try:
            new = [row for row in change.rows if change.was[row.knob] is None]
            self._prove([row for row in new if row.original == change.texts[row.knob]])
            self._write(change.receipts)
            self._checkpoint("apply:after_write")
            change.settled = [_read_back(row) for row in change.rows]
            self._checkpoint("apply:after_read_back")
        except (KnobError, OSError) as e:
            self._take_back(change, e)

    def finish(self, change: Change) -> Applied:
        """What `apply` returns, or raises once there was a write."""
        self._settle(change)
        plan, texts = change.plan, dict(change.texts)
        try:
            before, after = self._seen(plan, texts)
        except KnobAbsent:
            self.restore([w.knob for w in plan.asked])  # the rest of the change is for nothing
            raise
        after = {w.knob: after[w.knob] for w in plan.asked if w.knob in after} | after
        selectors = set(plan.selector_of.values())
        for write in plan.asked:
            if write.knob in selectors:
                scope = self._scopes.get(write.knob)
                original = scope.original if scope else self._parsed(before[write.knob], write.knob)
                self._scopes[write.knob] = Scope(original, write.value, change.trial, change.rule)
        for _ in range(ROUNDS if selectors else 0):  # what was forked while we looked and wrote
            late = self._plan(plan.asked, texts, late=True)
            if not late.writes:
                break
            try:
                texts |= self._late(change.trial, change.rule, late)
            except (KnobError, JournalError):
                break  # these keep what they have: the restore looks for heirs once more
        asked = {w.knob: w.value for w in (*plan.writes, *plan.asked)}
        return Applied(
            trial=change.trial,
            before=self._arm(before),
            after=tuple(Write(knob, value) for knob, value in after.items()),
            rounded=tuple(knob for knob, value in after.items() if value != asked[knob]),
            seconds=self._clock() - change.start,
        )

    def _settle(self, change: Change) -> None:
        """Record what came of it; raises what was refused."""
        self._under_way.difference_update(row.group for row in change.rows)
        if change.error is None:
            try:
                self._journal.settle(change.settled)
            except JournalError as e:
                self._take_back(change, e)
        if change.error is not None:
            self._forget(change)
            if change.failed:
                knob, why = next(iter(change.failed.items()))
                what = f"{why} (taking it back after: {change.error})"
                raise KnobRefused(
                    knob, "restore", what, hint="the next restore tries again"
                ) from change.error
            error = change.error
            if isinstance(error, OSError):
                hint = "the change was taken back"
                raise KnobRefused(
                    change.writes[0].knob, "read", str(error), error.errno or 0, hint
                ) from error
            raise error
        self._checkpoint("apply:settled")

    def _seen(self, plan: Plan, texts: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Value]]:
        """What was seen before and after; of a selector, by most of its tasks. KnobAbsent: none lives."""
        before = {knob: text for knob, text in texts.items() if knob not in plan.selector_of}
        after: dict[str, Value] = {}
        for write in plan.writes:
            if write.knob not in plan.selector_of:
                after[write.knob] = self._parsed(self._journal.rows[write.knob].ours, write.knob)
        for selector in dict.fromkeys(plan.selector_of.values()):
            rows = [self._journal.rows[k] for k in texts if plan.selector_of.get(k) == selector]
            living = [row.ours for row in rows if row.status in repair.ACTIVE]
            if not living:
                raise KnobAbsent(selector, "write", "all its tasks have ended", hint="nothing is changed")
            before[selector] = self._prevailing(selector, [texts[row.knob] for row in rows])
            after[selector] = self._parsed(self._prevailing(selector, living), selector)
        return before, after

    def hold(self, trial: str, on_stop: str = "back") -> None:
        """The trial is confirmed. `on_stop`: "back" or "keep". JournalError: it stays provisional."""
        held = [
            row._replace(status=RowStatus.HELD.value, on_stop=on_stop)
            for row in self.rows()
            if row.trial == trial and row.status == RowStatus.OPEN
        ]
        self._checkpoint("hold:before")
        if held:
            self._journal.intend(held, ())
        for knob, scope in self._scopes.items():
            if scope.trial == trial:
                self._scopes[knob] = scope._replace(held=on_stop)
        self._checkpoint("hold:after")

    def restore(self, knobs: Collection[str] | None = None) -> tuple[Outcome, ...]:
        """Compare, put back, check: all managed knobs, or `knobs` and those coupled with them.

        Never raises for a knob or for the journal: each Outcome says what came of it.
        """
        self._eyes.close()  # theirs may be the last descriptors, and the way back needs one
        groups = (
            None if knobs is None else {row.group for row in self.rows() if row.knob in knobs} | set(knobs)
        )
        rows = [row for row in self.rows() if groups is None or row.group in groups]
        free = [row for row in rows if row.group not in self._under_way]
        outcomes = repair.restore(free, self._journal.boot_id, self._journal.mark, self._checkpoint)
        said = {outcome.knob for outcome in outcomes}
        for knob, scope in tuple(self._scopes.items()):
            if groups is None or knob in groups:
                if knob not in said:
                    why = "all its tasks have ended"
                    outcomes.append(repair.Outcome(knob, "", str(scope.original), repair.VOID, why))
                del self._scopes[knob]
        why = "a write to it has not come back: in doubt until then"
        waiting = (
            Outcome(row.knob, "", row.original, "failed", why)
            for row in rows
            if row.status == RowStatus.IN_DOUBT and row.group in self._under_way
        )
        return (*(Outcome(*outcome) for outcome in outcomes), *waiting)

    def audit(self) -> tuple[ForeignWrite, ...]:
        """Compare every open or held row; a foreign one, with those coupled with it, becomes FOREIGN."""
        theirs: list[tuple[Row, str]] = []
        ended: list[Row] = []
        watched = [row for row in self.rows() if row.status in (RowStatus.OPEN, RowStatus.HELD)]
        self._eyes.only([row.path for row in watched])
        with reach.together():
            for row in watched:
                try:
                    found = repair.read(row, self._eyes.read)
                except OSError:
                    if row.is_task and reach.gone(row.identity):
                        ended.append(row._replace(status=RowStatus.VOID.value))
                    continue  # gone or refused: a restore says so
                if not _is_foreign(row, found):
                    continue
                if row.is_task and reach.gone(row.identity):  # its number is another's now
                    ended.append(row._replace(status=RowStatus.VOID.value))
                else:
                    theirs.append((row, found))
        if ended:
            self._journal.mark(ended)
        return self._disown(theirs) + self._given_up({row.group for row, _ in theirs if row.is_task})

    def release(self, knob: str) -> None:
        """Take a foreign knob (and those coupled with it) up again: its value now is the next original."""
        row = self._journal.rows.get(knob)
        bond = row.bond if row is not None else knob
        self._journal.mark(
            r._replace(status=RowStatus.VOID.value)
            for r in self.rows()
            if (r.bond == bond or r.group == knob) and r.status == RowStatus.FOREIGN
        )

    # ------------------------------------------------------------------------------ the parts

    def _knob(self, knob: str) -> Knob:
        try:
            return self._members.get(knob) or self._catalogue[knob]
        except KeyError:
            raise KnobAbsent(
                knob, "probe", "is not in the catalogue", hint="see `tuned-spec knobs`"
            ) from None

    def _text(self, knob: str, value: Value) -> str:
        entry = self._knob(knob)
        try:
            return repair.shown(entry.type, self._adapters[entry.adapter].format(entry, value))
        except ValueError as e:
            raise KnobRefused(knob, "write", str(e), errno.EINVAL, "see the entry's type and fields") from e

    def _parsed(self, text: str, knob: str) -> Value:
        """The value, or the text itself where it makes none: a foreign write can be anything, and the
        journal can hold a knob that this version's catalogue does not have."""
        try:
            entry = self._knob(knob)
            return self._adapters[entry.adapter].parse(entry, text)
        except (KnobAbsent, ValueError):
            return text

    def _managed(self, knob: str) -> Row | None:
        row = self._journal.rows.get(knob)
        return row if row is not None and row.status in repair.ACTIVE else None

    def _is_selector(self, knob: str) -> bool:
        entry = self._catalogue.get(knob)
        return entry is not None and entry.per == "task" and not tasks.is_member(entry)

    def _prevailing(self, knob: str, texts: Iterable[str]) -> str:
        entry = self._knob(knob)
        return self._adapters[entry.adapter].prevailing(entry, texts)

    def _tidy(self) -> None:
        """Forget what is over of tasks: there is no end of them."""
        self._journal.forget()
        self._members = {knob: entry for knob, entry in self._members.items() if knob in self._journal.rows}

    def _tasks(self, selector: str) -> dict[str, Row]:
        """The rows of a selector's tasks."""
        return {row.knob: row for row in self.rows() if row.group == selector and row.status in repair.ACTIVE}

    def _plan(
        self,
        writes: Writes,
        worn: Mapping[str, str] = MappingProxyType({}),
        late: bool = False,
        among: Collection[int] | None = None,
    ) -> Plan:
        """What is to be written: a selector's write becomes one to each of its tasks.

        `late`: only the tasks without a row. `worn`: what tasks of ours showed until just now, for their
        heirs to be known by. `among`: only tasks of these processes.
        """
        plain = tuple(w for w in writes if not self._is_selector(w.knob))
        meant = [] if late else list(self._written(plain))
        selector_of: dict[str, str] = {}
        all_heirs: dict[str, Row] = {}
        seen: set[str] = set()
        for write in writes:
            if not self._is_selector(write.knob):
                continue
            entry, rows, scope = self._knob(write.knob), self._tasks(write.knob), self._scopes.get(write.knob)
            heirs = {row.knob: row for row in repair.heirs(rows.values(), worn, among)}
            known = {tasks.tid_of(knob) for knob in rows} if late else ()
            found = {one.id: one for one in self._adapters[entry.adapter].members(entry, among, known)}
            for knob in heirs.keys() - found.keys():
                found[knob] = concrete(self._catalogue[entry_of(knob)], knob.partition("@")[2], {})
            self._members |= found
            all_heirs |= heirs
            seen |= found.keys()
            for knob in dict.fromkeys((*rows, *found)):
                row = self._managed(knob)
                if row is not None and (late or row.status == RowStatus.FOREIGN):
                    continue
                value = write.value
                if scope and value == scope.original:
                    row = row or heirs.get(knob)
                    if row is None:
                        continue  # it shows its own already
                    value = self._parsed(row.original, write.knob)
                selector_of[knob] = write.knob
                meant.append(Write(knob, value))
        return Plan(writes, tuple(meant), selector_of, all_heirs, seen)

    def _written(self, writes: Writes) -> Writes:
        """The writes as the kernel takes them, in rank order: 0 on a knob that its partner zeroes can
        only be had by writing the partner, its original if this call has no value for it."""
        asked = {write.knob: write.value for write in writes}
        real: dict[str, Value] = {}
        for knob, value in asked.items():
            zeroes = [p for p, k in self._couplings.of(knob).items() if k is CouplingKind.ZEROES]
            if value != 0 or not zeroes:
                real[knob] = value
            elif not any(asked.get(partner) for partner in zeroes):
                originals = {p: original for p in zeroes if (original := self.original(p))}
                if not originals:
                    hint = f"set {' or '.join(zeroes)} instead"
                    raise KnobRefused(knob, "write", "0 means that its partner counts", errno.EINVAL, hint)
                real |= originals
        ranked = sorted(real.items(), key=lambda item: self._couplings.place(item[0])[1])
        return tuple(Write(knob, value) for knob, value in ranked)

    def _before(self, trial: str, rule: str, plan: Plan) -> tuple[list[Row], dict[str, str]]:
        """The rows of the knobs and all their partners, and what each shows now; or KnobRefused.

        A selector's task that has ended, is somebody else's or cannot be taken is left out, unless all are.
        """
        wanted: dict[str, None] = {}
        for write in plan.writes:
            wanted[write.knob] = None
            wanted.update((p, None) for p, k in self._couplings.of(write.knob).items() if self._is_in(p, k))
        rows: list[Row] = []
        texts: dict[str, str] = {}
        left_out: KnobError | None = None
        for knob in wanted:
            row = self._managed(knob) if knob in plan.selector_of else None
            if row is not None and row.status == RowStatus.OPEN and row.trial != trial:
                raise KnobRefused(knob, "write", f"trial {row.trial} has it", hint="wait for its verdict")
            try:
                row, texts[knob] = self._one_before(knob, trial, rule, plan)
            except KnobError as e:
                if knob not in plan.selector_of:
                    raise
                left_out = e
                continue
            group = plan.selector_of.get(knob, row.group)  # a held task goes over to whoever means it now
            rows.append(row._replace(trial=trial, rule=rule, status=RowStatus.OPEN.value, group=group))
        if not rows:
            raise left_out or KnobAbsent(plan.asked[0].knob, "write", "no task matches it now")
        return rows, texts

    def _one_before(self, knob: str, trial: str, rule: str, plan: Plan) -> tuple[Row, str]:
        row = self._managed(knob)
        if row is not None and knob not in plan.seen and (why := reach.gone(row.identity)):
            self._journal.mark([row._replace(status=RowStatus.VOID.value)])
            raise KnobAbsent(knob, "write", why, hint="what was changed went away with it")
        if row is None and knob in plan.heirs:
            heir = plan.heirs[knob]
            return self._journal.take(heir), heir.ours
        if row is None:
            row = self._first(knob, trial, rule, plan.selector_of.get(knob))
            return row, row.original
        if row.status == RowStatus.OPEN and row.trial != trial:
            raise KnobRefused(knob, "write", f"trial {row.trial} has it", hint="wait for its verdict")
        if row.status == RowStatus.IN_DOUBT:
            raise KnobInDoubt(knob, "write", "a write to it has not come back", hint="wait until it has")
        if row.status == RowStatus.FOREIGN:
            raise KnobRefused(
                knob, "write", f"is {row.status}", hint=f"`tuned-spec resume {knob}` takes it up"
            )
        return row, self._ours(row)

    def _is_in(self, partner: str, kind: CouplingKind) -> bool:
        """Whether a partner belongs to the before-image: one that is reset and not here has no value."""
        if kind is not CouplingKind.RESETS or self._managed(partner):
            return kind is not CouplingKind.ORDERED
        entry = self._knob(partner)
        return self._adapters[entry.adapter].probe(entry).present

    def _ours(self, row: Row) -> str:
        """What a managed knob shows now; KnobRefused if that is somebody else's."""
        try:
            found = repair.read(row)
        except OSError as e:
            raise KnobAbsent(
                row.knob, "read", f"{row.path}: {e.strerror}", e.errno or 0, "it is left alone"
            ) from e
        if _is_foreign(row, found):
            self._disown([(row, found)])
            raise KnobRefused(
                row.knob,
                "write",
                f"somebody else set it to {found} (ours was {row.ours})",
                hint=f"it is theirs until `tuned-spec resume {row.knob}`",
            )
        return found

    def _first(self, knob: str, trial: str, rule: str, selector: str | None) -> Row:
        """A new row, with the value now as the original."""
        entry = self._knob(knob)
        if not selector and (refusal := self.reversible(knob)):
            raise _refused(refusal)
        adapter = self._adapters[entry.adapter]
        since = self._clock()
        self.value(knob)  # it makes sense; kept is the text itself, in which there may be more
        text = repair.shown(entry.type, adapter.read_text(entry))
        group, rank = (selector, 0) if selector else self._couplings.place(knob)
        return self._journal.take(
            Row(
                id=0,
                seq=0,
                knob=knob,
                adapter=entry.adapter,
                type=entry.type.value,
                path=adapter.address(entry),
                identity=adapter.identity(entry),
                original=text,
                ours=text,
                pending="",
                group=group,
                rank=rank,
                trial=trial,
                rule=rule,
                status=RowStatus.OPEN.value,
                on_stop="back",
                boot_id="",
                since=since,
            )
        )

    def _expected(self, entry: Knob, value: Value) -> str:
        """What the knob will show once that value is written."""
        adapter = self._adapters[entry.adapter]
        text = self._text(entry.id, adapter.canonical(entry, value))
        try:
            return reach.canonical(adapter.address(entry), text)
        except OSError as e:
            raise KnobRefused(entry.id, "write", str(e), e.errno or 0, "see the entry's fields") from e

    def _pending(self, writes: Writes) -> dict[str, list[str]]:
        """Every text that a knob may show on the way from before to after."""
        pending: dict[str, list[str]] = {}
        for write in writes:
            entry = self._knob(write.knob)
            pending.setdefault(write.knob, []).append(self._expected(entry, write.value))
            for partner, kind in self._couplings.of(write.knob).items():
                if kind is CouplingKind.ZEROES:
                    pending.setdefault(partner, []).append("0")
            for c in entry.coupled:
                if c.kind is CouplingKind.RESETS:
                    pending.setdefault(c.partner, []).append(repair.ANY)
        return pending

    def _prove(self, new: Iterable[Row]) -> None:
        """No way back, no way in: each new original is written over itself before anything else is.

        Not where that would change something: a 0 beside a partner, a knob that resets another.
        """
        for row in new:
            entry = self._knob(row.knob)
            resets = any(c.kind is CouplingKind.RESETS for c in entry.coupled)
            if resets or self._zeroed(row):
                continue
            try:
                repair.write(row, row.original)
            except OSError as e:
                if row.is_task and reach.gone(row.identity):
                    continue
                raise KnobRefused(
                    row.knob,
                    "write",
                    f"irreversible: the kernel does not take its own value {row.original} back",
                    e.errno or 0,
                    "it is left alone",
                ) from e
            self._checkpoint("apply:proved")

    def _zeroed(self, row: Row) -> bool:
        return row.original == "0" and CouplingKind.ZEROES in self._couplings.of(row.knob).values()

    def _write(self, receipts: Collection[Receipt]) -> None:
        """Each receipt once; a refused one again after the others (ORDERED knobs), while any goes through."""
        left = list(receipts)
        while left:
            refused: list[tuple[Receipt, KnobRefused]] = []
            for receipt in left:
                knob = self._knob(receipt.knob)
                try:
                    self._adapters[knob.adapter].write(receipt, knob)
                except KnobRefused as e:
                    refused.append((receipt, e))
                except KnobAbsent:
                    if receipt.knob not in self._members:  # a task has ended
                        raise
                self._checkpoint(f"apply:wrote:{receipt.knob}")
            if len(refused) == len(left):
                raise refused[0][1]
            left = [receipt for receipt, _ in refused]

    def _take_back(self, change: Change, error: KnobError | JournalError | OSError) -> None:
        """Back to before the call, as far as the kernel lets us."""
        back = sorted(
            (row._replace(original=change.texts[row.knob]) for row in change.rows),
            key=lambda r: (r.rank, r.original == "0"),
        )
        change.error, change.failed = error, repair.put_back(back, self._checkpoint)
        self._checkpoint("undo:written")

    def _forget(self, change: Change) -> None:
        """A knob that was not managed before is not managed now, unless it could not be taken back."""
        self._journal.mark(
            row
            if row.knob in change.failed
            else earlier._replace(ours=change.texts[row.knob], pending="")
            if (earlier := change.was[row.knob])
            else row._replace(status=RowStatus.RESTORED.value, pending="")
            for row in change.rows
        )

    def _arm(self, texts: Mapping[str, str]) -> Writes:
        values = {knob: self._parsed(text, knob) for knob, text in texts.items() if text != repair.ABSENT}
        return tuple(
            Write(knob, value)
            for knob, value in values.items()
            if not (value == 0 and CouplingKind.ZEROES in self._couplings.of(knob).values())
        )

    def _disown(self, theirs: Collection[tuple[Row, str]]) -> tuple[ForeignWrite, ...]:
        """Mark these, and those coupled with them, as somebody else's."""
        if not theirs:
            return ()
        bonds = {row.bond for row, _ in theirs}
        gone = [row for row in self.rows() if row.bond in bonds and row.status in repair.ACTIVE]
        if gone:
            self._journal.mark(row._replace(status=RowStatus.FOREIGN.value) for row in gone)
        return tuple(
            ForeignWrite(row.knob, self._parsed(row.ours, row.knob), self._parsed(found, row.knob))
            for row, found in theirs
        )

    def _given_up(self, selectors: Collection[str]) -> tuple[ForeignWrite, ...]:
        """Of these, those whose tasks are all somebody else's: then the selector is, too."""
        lost = []
        for selector in selectors & self._scopes.keys():
            rows = self._tasks(selector).values()
            if all(row.status == RowStatus.FOREIGN for row in rows):
                scope = self._scopes.pop(selector)
                try:
                    found: Value = self.value(selector)
                except KnobError:
                    found = scope.original  # they have ended by now
                lost.append(ForeignWrite(selector, scope.value, found))
        return tuple(lost)


def _is_foreign(row: Row, found: str) -> bool:
    """Also the original, if we did not put it there: whoever did has spoken. (A repair cannot tell that
    from a change that was never made, and need not: it is back.)"""
    return repair.compare(row, found) == "foreign" or (not row.pending and found != row.ours)


def _refused(refusal: Refusal) -> KnobError:
    error = KnobAbsent if refusal.code == "absent" else KnobRefused
    return error(refusal.knob, "write", f"{refusal.code}: {refusal.what}", hint="it is left alone")


def _read_back(row: Row) -> Row:
    """As settled; of a task that has ended meanwhile nothing is left to put back."""
    try:
        return row._replace(ours=repair.read(row), pending="")
    except FileNotFoundError:
        if row.is_task:
            return row._replace(status=RowStatus.VOID.value, pending="")
        raise


def _joined(texts: list[str]) -> str:
    return repair.ANY if repair.ANY in texts else "\n".join(dict.fromkeys(texts))
