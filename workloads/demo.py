"""The whole loop before your eyes: `python -m workloads.demo [--null] [--load urgent|ping] [--out DIR]`.

Notes every knob, starts the daemon and a load that a default of this host hurts, and watches: what the daemon
guesses, how the guess is judged, a second guess that sounds right and is not, a kill -9 in the midst of it,
the repair; then compares every knob with what it was. Nothing is scripted but the load: outcomes are read
from the daemon's history, from the loads' figures and from the knob files, and told as they are.

Owns the order of events and the cleaning up. Exit status: 0; 1 if a knob that the daemon touched is not back,
or if --null confirmed anything; 2 if the demo cannot be run here; 130 after Ctrl-C (all is put back first).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from tuned_spec import paths
from tuned_spec.cli import live
from tuned_spec.errors import TunedSpecError
from tuned_spec.ledger.history import Entry, read
from tuned_spec.report.picture import Table, page
from workloads import life, story
from workloads.screen import WIDEST, Screen, table
from workloads.story import ENDS, Act, Said
from workloads.witness import Load, Witness, clock

POLICY = Path(__file__).with_name("demo.yaml")
LONGEST_S = 240.0  # the daemon and the loads end by themselves then, should the demo be killed
TICK_S = 0.04
PHASES = ("as it is", "first guess", "second guess", "kill -9", "repair", "proof")


class Demo:
    def __init__(self, arguments: argparse.Namespace, place: Path) -> None:
        self.null: bool = arguments.null
        self.out: Path = arguments.out
        self.root = os.geteuid() == 0
        self.helping = {"urgent": story.URGENT, "ping": story.PING}[arguments.load]
        self.acts = (self.helping, story.BULK)
        self.runtime, self.state, self.place = place / "run", place / "state", place
        self.uid = pwd.getpwnam("nobody").pw_uid if self.root else os.geteuid()
        self.began = clock()
        self.witness = Witness()
        self.screen = Screen("tuned-spec demo" + (", --null" if self.null else ""))
        self.story: list[Said] = []
        self.entries: list[Entry] = []
        self.phase = 0
        self.act: Act | None = None
        self.load: Load | None = None
        self.daemon: subprocess.Popen[bytes] | None = None
        self.killed: float | None = None
        self.next_read = self.next_frame = 0.0

    # ---------------------------------------------------------------------- the order of events

    def run(self) -> None:
        self.say(f"{len(self.witness.start)} knobs noted, as the kernel shows them")
        self.start_daemon()
        self.begin(0, self.helping)
        self.watch(2)
        self.enter(1)
        self.judged(self.helping, 90)
        self.watch(2.5)
        self.begin(2, story.BULK)
        self.judged(story.BULK, 90)
        self.watch(1.5)
        if self.root:
            self.begin(3, self.helping)
            self.watch(2)
            self.watch(20, lambda: bool(self.ours()))
            self.kill_daemon()
            self.watch(2.5)
            self.enter(4)
            self.repair()
            self.watch(2.5)
        self.enter(5)

    def judged(self, act: Act, seconds: float) -> None:
        """Watch until this act's guess has been dealt with, or it is clear that there will be none."""
        self.watch(seconds if self.root else 10, lambda: self.ended(act))
        if not self.ended(act):
            self.say(f"no outcome of {act.rule} in time; going on", "bad", act)

    def ended(self, act: Act) -> bool:
        return any(e.rule == act.rule and e.kind in (*ENDS, "would") for e in self.entries)

    def start_daemon(self) -> None:
        policy = self.place / "demo.yaml"
        # Who reports decides whose figures count: nobody for root, else whoever runs this.
        policy.write_text(POLICY.read_text().replace("owner: nobody", f"owner: '{self.uid}'"))
        command = ["run", "--policy", str(policy), "--mode", "lossy" if self.root else "observe"]
        self.log = (self.place / "daemon.log").open("wb")
        self.daemon = subprocess.Popen(
            [
                *tuned_spec(*command, "--for", f"{LONGEST_S:.0f}s"),
                *("--runtime-dir", str(self.runtime), "--state-dir", str(self.state)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            # It restores on SIGTERM; a demo killed by -9 must not leave a root daemon tuning the host.
            preexec_fn=partial(life.die_with_parent, os.getpid(), signal.SIGTERM),
        )
        self.watch(10, lambda: (self.runtime / paths.METRICS).exists() and bool(self.entries))
        if not self.entries:
            raise self.died()
        if not self.root:
            self.say("not root: the daemon observes and writes nothing (sudo make demo does)", "bad")

    def died(self) -> TunedSpecError:
        said = (self.place / "daemon.log").read_text(errors="replace")
        return TunedSpecError(f"the daemon did not start, or died; everything is put back. It said:\n{said}")

    def begin(self, phase: int, act: Act) -> None:
        """The next phase, with this load."""
        self.stop_load()
        self.enter(phase)
        self.act = act
        self.load = Load(act.module, LONGEST_S, self.runtime / paths.METRICS, self.uid, self.null)
        self.witness.listen(self.load)

    def enter(self, phase: int) -> None:
        self.phase = phase
        self.say(f"-- {PHASES[phase]}")

    def kill_daemon(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.killed = clock()
        self.daemon.wait()
        ours = self.ours()
        self.say("kill -9 of the daemon", "bad", self.helping)
        for knob, (was, now) in ours.items():
            self.say(f"left behind: {knob} is {now}, was {was}", "bad")
        if not ours:
            self.say("nothing was changed at that moment")

    def repair(self) -> None:
        """`tuned-spec restore`, as an admin would; its table is shown as it prints it."""
        done = subprocess.run(
            [*tuned_spec("restore"), "--runtime-dir", str(self.runtime)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.say("tuned-spec restore", "back", self.helping)
        for line in (done.stdout + done.stderr).splitlines():
            self.say(line, "back")

    # -------------------------------------------------------------------------------- watching

    def watch(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Look on until something is so, for so long at most."""
        end = clock() + seconds
        while clock() < end and not until():
            self.witness.look([act.knob for act in self.acts])
            if self.daemon is not None and self.daemon.poll() not in (None, -signal.SIGKILL):
                raise self.died()
            if clock() >= self.next_read:
                self.next_read = clock() + 0.4
                self.hear()
            if clock() >= self.next_frame:
                self.next_frame = clock() + 0.2
                self.draw()
            time.sleep(TICK_S)

    def hear(self) -> None:
        """What the history has that we have not told yet."""
        known = self.entries[-1].id if self.entries else 0
        try:
            new = [entry for entry in read(self.state) if entry.id > known]
        except TunedSpecError:  # it is just being made
            return
        self.entries += new
        for entry in sorted(new, key=lambda entry: entry.t):
            said = story.tell(entry, self.acts, self.entries)
            if said:
                self.tell(said)

    def say(self, text: str, tone: str = "plain", act: Act | None = None) -> None:
        """Our own sentence, after all that the history has from before it."""
        self.hear()
        self.tell(Said(clock(), text, tone, act))

    def tell(self, said: Said) -> None:
        self.story.append(said)
        self.screen.say(said.t - self.began, said.text, said.tone)

    def draw(self) -> None:
        if not self.screen.live or self.act is None:
            return
        act = self.act
        values = [v for _, v in self.witness.samples.get(act.metric, [])[-WIDEST:]]
        now = f"{values[-1]:,.1f} {act.unit}" if values else "-"
        trace = self.witness.trace.get(act.knob, [])
        phases = "  ".join(f"[{name}]" if i == self.phase else name for i, name in enumerate(PHASES))
        facts = [
            f"{act.knob} = {trace[-1][1] if trace else '?'}",
            f"{'at the start':>{len(act.knob)}} = {self.witness.start.get(act.knob, 'absent')}",
            self.daemon_line(),
        ]
        metric = f"{act.title}: {act.axis}, now {now}"
        self.screen.draw(clock() - self.began, phases, metric, values, facts)

    def daemon_line(self) -> str:
        if self.daemon is None or self.daemon.poll() is not None:
            return "daemon: dead"
        trials = live.daemon(self.runtime).status.get("open")
        line = f"daemon: process {self.daemon.pid}"
        for trial in trials if isinstance(trials, list) else []:
            line += f", on trial: {trial['rule']}, arm {trial['arm']}, {trial['pairs']} pairs"
        return line

    # ---------------------------------------------------------------------------- at the end

    def ours(self) -> dict[str, tuple[str, str]]:
        """Knobs that are not as at the start, of those that the daemon has touched."""
        touched = self.touched()
        return {knob: pair for knob, pair in self.witness.differing().items() if knob in touched}

    def touched(self) -> set[str]:
        return {knob for e in self.entries if e.kind in ("proposed", "applied") for knob in e.knobs}

    def stop_load(self) -> None:
        if self.load is not None:
            self.load.stop()
            self.load = None

    def clean_up(self) -> None:
        """Nothing of ours stays: loads, daemon, changed knobs. Harmless to call at any moment."""
        self.stop_load()
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.terminate()
            try:
                self.daemon.wait(10)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()
        if self.root and (self.runtime / paths.JOURNAL).exists():
            subprocess.run(
                [*tuned_spec("restore"), "--runtime-dir", str(self.runtime)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=60,
            )
        self.hear()
        self.screen.close()

    def finish(self) -> int:
        """Tables, picture, proof. Returns the exit status."""
        differing, count = self.witness.differing(), len(self.witness.start)
        foreign = {knob for e in self.entries if e.kind == "foreign" for knob in e.knobs}
        broken = set(self.ours()) - foreign
        results = [story.result(act, self.entries, self.witness) for act in self.acts]
        proof = f"{count - len(differing)} of {count} knobs equal their value at the start"
        others = sorted(set(differing) - broken)
        print("\n" + table(story.HEAD, story.rows(results, self.witness)) + "\n\n" + proof)
        for knob, (was, now) in sorted(differing.items()):
            if knob in broken:
                who = "LEFT BY TUNED-SPEC"
            elif knob in foreign:
                who = "tuned-spec tried it, then somebody else wrote it: theirs, so left alone"
            else:
                who = "changed by something else on this host: tuned-spec never touched it"
            print(f"  {knob}: {was} -> {now}  ({who})")
        if broken:
            claim = f"{len(broken)} knobs were NOT put back"
        elif others:
            claim = "every knob that tuned-spec held is as before"
        else:
            claim = f"all {count} knobs as before"
        title = story.headline(results, claim)
        confirmed = [e for e in self.entries if e.kind in ("confirmed", "overwritten")]
        if self.null:
            held = "nothing was confirmed, as it must be" if not confirmed else "CONFIRMED WITHOUT AN EFFECT"
            print(f"--null: the loads were deaf to the knobs; {held}")
        self.draw_picture(title, proof, results, others)
        return 1 if broken or (self.null and confirmed) else 0

    def draw_picture(
        self, title: str, proof: str, results: Sequence[story.Result], others: list[str]
    ) -> None:
        names = sorted({act.knob for act in self.acts})
        now = self.witness.snapshot()
        knobs = Table(
            proof + (f"; changed by others meanwhile: {', '.join(others)}" if others else ""),
            ("knob", "at the start", "at the end"),
            tuple((k, self.witness.start.get(k, "absent"), now.get(k, "absent")) for k in names),
        )
        notes = [
            f"Linux {platform.release()}, {os.cpu_count()} CPUs. A change is written first and judged after, "
            "by measured windows with and without it, in random order. Shades show what the knob file said."
        ]
        if self.null:
            notes.insert(
                0, "Run with --null: both loads were deaf to the knobs, so nothing may be confirmed."
            )
        self.out.mkdir(parents=True, exist_ok=True)
        states = {knob: story.states(knob, self.entries, self.killed) for knob in names}
        drawn = story.picture(title, notes, self.story, results, states, self.witness, [knobs])
        (self.out / "demo.html").write_text(page(drawn), encoding="utf-8")
        facts = {
            "story": [{"t": said.t - self.began, "said": said.text} for said in self.story],
            "history": [{"t": e.t - self.began, "kind": e.kind, "rule": e.rule} for e in self.entries],
            "touched": {k: [self.witness.start.get(k), now.get(k)] for k in sorted(self.touched())},
            "samples": self.witness.samples,
        }
        (self.out / "demo.json").write_text(json.dumps(facts))
        shutil.copy(self.place / "daemon.log", self.out)
        give_to_caller(self.out)
        print(f"picture: {self.out / 'demo.html'}")


def tuned_spec(*words: str) -> list[str]:
    return [sys.executable, "-m", "tuned_spec", *words]


def give_to_caller(place: Path) -> None:
    """Files made under sudo belong to who called it."""
    uid, gid = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if os.geteuid() == 0 and uid and gid:
        for path in (place, *place.iterdir()):
            os.chown(path, int(uid), int(gid))


def obstacle(demo: Demo) -> str:
    """Why the demo cannot be run here, or ""."""
    if pid := live.lock_holder(paths.runtime_dir()):
        return f"a tuned-spec daemon runs here (process {pid}); stop it first, two would disturb each other"
    missing = [act.knob for act in demo.acts if act.knob not in demo.witness.start]
    if missing:
        return f"this host does not have {', '.join(missing)}; try --load urgent"
    shut = [
        act.knob for act in demo.acts if demo.root and not os.access(demo.witness.paths[act.knob], os.W_OK)
    ]
    if shut:
        return f"{', '.join(shut)} cannot be written here (a container with a read-only /proc/sys?)"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description="tuned-spec, the whole loop before your eyes")
    parser.add_argument(
        "--null", action="store_true", help="loads deaf to the knobs: nothing may be confirmed"
    )
    parser.add_argument("--load", choices=("urgent", "ping"), default="urgent", help="what is to be helped")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="where the picture goes")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    place = Path(tempfile.mkdtemp(prefix="tuned-spec-demo-"))
    place.chmod(0o755)  # nothing in it is secret, and the actor is another user
    demo = Demo(arguments, place)
    try:
        if why := obstacle(demo):
            demo.screen.close()
            print(f"demo: {why}", file=sys.stderr)
            return 2
        try:
            demo.run()
        except KeyboardInterrupt:
            demo.say("interrupted: putting everything back", "bad")
            interrupted = True
        else:
            interrupted = False
        finally:
            demo.clean_up()
        status = demo.finish()
        return status or (130 if interrupted else 0)
    except TunedSpecError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(place, ignore_errors=True)


def interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
