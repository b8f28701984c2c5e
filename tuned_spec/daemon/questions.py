"""Who asked what: the probes under way, and how many a case may still ask.

Owns the numbers by which answers find their way back. Must not know who answers, or what.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from tuned_spec.model import Probe

A_CASE = 32  # probes of one case
AT_ONCE = 4  # of them under way


class Questions:
    def __init__(self) -> None:
        self._last = 0
        self._under_way: dict[int, Probe] = {}  # token -> question
        self._asked: dict[str, int] = {}  # open case -> its probes so far

    def refused(self, probe: Probe, open: Collection[str]) -> str:
        """Why this may not be asked, however right the question is; or "". `open`: the open cases."""
        self._asked = {case: self._asked.get(case, 0) for case in open}
        if probe.case not in self._asked:
            return "this case is not open"
        if self._asked[probe.case] >= A_CASE:
            return f"{A_CASE} probes a case, and no more"
        if sum(other.case == probe.case for other in self._under_way.values()) >= AT_ONCE:
            return f"{AT_ONCE} probes at once, and no more: wait for an answer"
        return ""

    def take(self, probe: Probe) -> int:
        """The token of one that is not refused."""
        self._asked[probe.case] += 1
        self._last += 1
        self._under_way[self._last] = probe
        return self._last

    def answered(self, token: int) -> Probe:
        """What was asked by it; once."""
        return self._under_way.pop(token)


def shown(probe: Probe) -> Probe:
    """A question that is no probe's, fit for a terminal."""
    return msgspec.structs.replace(probe, name=ascii(probe.name[:40]), args={})
