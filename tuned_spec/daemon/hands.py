"""What the engine's commands come to on the host: looks, writes and reverts through the ledger.

Owns the ledger and the watch on other writers; turns their errors into events, so that nothing that a
kernel or a disk refuses can end the daemon. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from tuned_spec.daemon.aside import Aside
from tuned_spec.engine.events import (
    Applied,
    Apply,
    ApplyFailed,
    Event,
    ForeignFound,
    Hold,
    JournalChanged,
    Look,
    Looked,
    Revert,
    RevertAll,
    Reverted,
)
from tuned_spec.envelope import CODES
from tuned_spec.errors import JournalError, KnobError, KnobRefused
from tuned_spec.knobs.adapters import Adapter
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.knobs.watch import Watch
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Applied as Done
from tuned_spec.ledger.ledger import Change, Ledger
from tuned_spec.model import Outcome, Refusal


class Hands:
    """`clock` gives the time of the events that are returned."""

    def __init__(
        self,
        catalogue: Catalogue,
        access: Mapping[str, Adapter],
        journal: Journal,
        clock: Callable[[], float],
    ) -> None:
        self.catalogue, self.access, self.journal, self.clock = catalogue, access, journal, clock
        self.ledger = Ledger(catalogue, access, journal, clock)
        self.watch = Watch()
        self.aside = Aside()
        self._returned: list[Event] = []  # answers for the loop
        self._waiting: dict[str, None] = {}  # trials with a write aside: the first one's is under way
        self._withdrawn: set[str] = set()  # of them, those that are over before it was their turn
        self.to_write = True  # False: nothing will be, only what is absent counts against a knob
        self.reverted: tuple[Outcome, ...] = ()  # what the last RevertAll came to
        self._knob_at: dict[Path, str] = {}
        self._writers: dict[str, str] = {}  # knob -> who wrote it last, as far as was seen

    def watch_over(self, knobs: Iterable[str]) -> None:
        """From now on, see who else writes these; what has gone is watched no more."""
        for gone in [path for path in self._knob_at if not path.exists()]:
            self.watch.drop(gone)
            del self._knob_at[gone]
        for name in knobs:
            try:
                path = Path(self.access[self.catalogue[name].adapter].address(self.catalogue[name]))
            except KnobError:
                continue
            if path.is_absolute() and path.exists():
                self._knob_at[path] = name
                self.watch.add(path)

    def unusable(self, knobs: Iterable[str]) -> dict[str, str]:
        """Which of them this host does not have (or does not let us write) -> why."""
        why = {}
        for name in knobs:
            knob = self.catalogue[name]
            probe = self.access[knob.adapter].probe(knob)
            if not (probe.writable if self.to_write else probe.present):
                why[name] = probe.why
            elif self.to_write and not knob.tried:
                why[name] = CODES["untried"]
        return why

    def foreign(self) -> tuple[ForeignFound, ...]:
        """Compare every knob of ours with the kernel; whoever wrote one is named if the watch saw it."""
        for seen in self.watch.read():
            knob = self._knob_at.get(seen.path, "")
            self._writers[knob] = f"{seen.comm or 'a process now gone'}[{seen.pid}]"
        named = tuple(
            msgspec.structs.replace(write, writer=self._writers.get(write.knob, write.writer))
            for write in self.ledger.audit()
        )
        return (ForeignFound(self.clock(), named),) if named else ()

    def look(self, command: Look) -> Looked:
        live = {}
        for name in command.knobs:
            refusal = self.ledger.reversible(name)
            # Who only observes (without root, say) is told what would be done by one who may write.
            if refusal and (self.to_write or refusal.code != "read_only"):
                return Looked(self.clock(), command.rule, {}, refusal)
            try:
                live[name] = self.ledger.value(name)
            except KnobError as error:
                return Looked(self.clock(), command.rule, {}, Refusal("unreadable", name, str(error)))
        for name in command.beside:
            try:
                live[name] = self.ledger.value(name)
            except KnobError:
                pass  # not here: whoever needs it says so
        return Looked(self.clock(), command.rule, live)

    def apply(self, command: Apply) -> tuple[Event, ...]:
        foreign = self.foreign()
        if {w.knob for event in foreign for w in event.writes} & {w.knob for w in command.writes}:
            return foreign
        asked = (command.trial, command.rule, command.writes)
        if not any(self.catalogue[w.knob].blocking for w in command.writes):
            return (*foreign, *self._answer(command, lambda: self.ledger.apply(*asked)))
        try:
            change = self.ledger.begin(*asked, aside=True)
        except (KnobError, JournalError) as error:
            return (*foreign, *self._failed(command, error))
        self._waiting[command.trial] = None
        self.aside.begin(lambda: self._carry_out(change), lambda: self._finish(command, change))
        return foreign

    def _carry_out(self, change: Change) -> None:
        """In the other thread. A write that waited behind another may have come too late."""
        if change.trial in self._withdrawn:
            what = "its trial was over before its turn came"
            change.error = KnobRefused(change.writes[0].knob, "write", what, hint="nothing was written")
        else:
            self.ledger.carry_out(change)

    def _finish(self, command: Apply, change: Change) -> None:
        del self._waiting[change.trial]
        self._withdrawn.discard(change.trial)
        self._returned.extend(self._answer(command, lambda: self.ledger.finish(change)))

    def withdraw(self, trial: str = "") -> None:
        """What waits behind another write, of this trial or of all, is never written."""
        self._withdrawn |= {one for one in list(self._waiting)[1:] if trial in ("", one)}

    def come_back(self) -> tuple[Event, ...]:
        """The answers to those Apply whose writes were done aside and are over now."""
        self.aside.come_back()
        returned, self._returned = tuple(self._returned), []
        return returned

    def _answer(self, command: Apply, deed: Callable[[], Done]) -> tuple[Event, ...]:
        try:
            done = deed()
        except (KnobError, JournalError) as error:
            return self._failed(command, error)
        return (Applied(self.clock(), command.trial, done.before, done.after, done.rounded, done.seconds),)

    def _failed(self, command: Apply, error: KnobError | JournalError) -> tuple[Event, ...]:
        if isinstance(error, KnobError):
            left = error.op == "restore"  # it could not be taken back
            return (ApplyFailed(self.clock(), command.trial, error.knob, error.code, str(error), left),)
        failed = ApplyFailed(self.clock(), command.trial, command.writes[0].knob, 0, str(error))
        return (JournalChanged(self.clock(), False, str(error)), failed)

    def join(self, among: Collection[int] | None = None) -> tuple[Event, ...]:
        """Tasks of these processes (None: of all) get what the selectors that mean them are set to."""
        try:
            self.ledger.join(among)
        except JournalError as error:
            return (JournalChanged(self.clock(), False, str(error)),)
        return ()

    def hold(self, command: Hold) -> tuple[Event, ...]:
        try:
            self.ledger.hold(command.trial)
        except JournalError as error:
            # The value stays, as provisional as before: whatever ends this process takes it back.
            return (JournalChanged(self.clock(), False, str(error)),)
        return ()

    def revert(self, command: Revert) -> tuple[Event, ...]:
        self.withdraw(command.trial)
        foreign = self.foreign()
        outcomes = self.ledger.restore(command.restore) if command.restore else ()
        if command.hold:
            try:
                self.ledger.apply(command.trial, command.rule, command.hold)
                self.ledger.hold(command.trial)
                # These are held again: only of the others may be said that they are back.
                again = {w.knob for w in command.hold}
                outcomes = tuple(o for o in outcomes if o.knob not in again)
            except (KnobError, JournalError):
                # What was confirmed cannot be had again: the original is the next best, and always safe.
                outcomes += self.ledger.restore(tuple(w.knob for w in command.hold))
        return (*foreign, Reverted(self.clock(), command.trial, outcomes, command.why))

    def revert_all(self, command: RevertAll) -> tuple[Event, ...]:
        foreign = self.foreign()
        self.reverted = self.ledger.restore(command.knobs or None)
        return (*foreign, Reverted(self.clock(), "", self.reverted, command.why))

    def try_journal(self) -> tuple[Event, ...]:
        """Is it back? Its own rows, written once more, tell."""
        try:
            self.journal.settle(self.ledger.rows())
        except JournalError:
            return ()
        return (JournalChanged(self.clock(), True, "the journal can be written again"),)

    def close(self) -> None:
        self.watch.close()
        self.aside.close()
        self.journal.close()
