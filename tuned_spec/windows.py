"""How long a trial's windows last, and how long its lease must be to hold enough of them.

Pure arithmetic over a rule and its knobs, shared by the policy's checks and the speculator. Knows
nothing of what is done in a window.
"""

from __future__ import annotations

from collections.abc import Mapping

from tuned_spec.model import Frozen, Knob, Rule

HOST_DWELL_S = 3.0  # a window judged by the host's own rates needs a few ticks
TURN_S = 0.05  # what a switch of arms and its messages may take beside settling and dwelling
LEASE_SHARE = 0.9  # the rest of a lease is for the way back
LEAST_PAIRS = 6  # all pointing one way, at alpha 5%: less can prove nothing
USUAL_PAIRS = 16  # room for noise, and for trying one further value


class Windows(Frozen, frozen=True):
    """Seconds: thrown away after a switch, then measured; and the whole lease."""

    settle_s: float
    dwell_s: float
    lease_s: float

    @property
    def pair_s(self) -> float:
        return 2 * (self.settle_s + self.dwell_s + TURN_S)

    @property
    def pairs(self) -> int:
        """How many pairs of windows the lease holds."""
        return int(self.lease_s * LEASE_SHARE / self.pair_s + 1e-9)

    def lease_for(self, pairs: int) -> float:
        return pairs * self.pair_s / LEASE_SHARE


def of(rule: Rule, catalogue: Mapping[str, Knob]) -> Windows:
    """What the rule says, else what its slowest knob needs; a rule without a lease gets enough of one."""
    knobs = [catalogue[action.knob] for action in rule.do]
    names = [rule.expect.metric, *(guard.metric for guard in rule.guard)]
    host = 0.0 if all(name.startswith("app.") for name in names) else HOST_DWELL_S
    settle = max(knob.settle_s for knob in knobs) if rule.settle_s is None else rule.settle_s
    dwell = max(host, *(knob.dwell_s for knob in knobs)) if rule.dwell_s is None else rule.dwell_s
    windows = Windows(settle, dwell, 0.0)
    lease = windows.lease_for(USUAL_PAIRS) if rule.lease_s is None else rule.lease_s
    return Windows(settle, dwell, lease)
