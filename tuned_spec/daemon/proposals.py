"""What proposals from outside must be before the engine hears of them: plain, bounded, about what is sensed.

Pure but for what it is handed. Must not know sockets, nor what is allowed to be written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from tuned_spec.engine.suggesting import MODEL
from tuned_spec.globs import is_glob
from tuned_spec.model import Expect, Guard, MetricOwner, Offer, Refusal, Way
from tuned_spec.sense.metrics import known

SOURCE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
REASON = 500  # characters that are kept
WRITES, GUARDS = 16, 16  # at most
MOST_EFFECT = 10.0  # 1000%: no change is asked to do more


def plain(offer: Offer) -> Offer | str:
    """The proposal with words that can go on a terminal, or what is wrong with it."""
    if not SOURCE.fullmatch(offer.source) or offer.source == MODEL:
        return f"source {offer.source[:40]!a}: write who it is in small letters, digits, - and _, not {MODEL}"
    if len(offer.writes) > WRITES or len(offer.guard) > GUARDS:
        return f"at most {WRITES} knobs and {GUARDS} guards in one proposal"
    if not 0 <= offer.expect.min_effect <= MOST_EFFECT or not 0 <= offer.confidence <= 1:
        return "min_effect is a share from 0 to 10, confidence one from 0 to 1"
    if any(not 0 <= guard.margin <= MOST_EFFECT for guard in offer.guard):
        return "a guard's margin is a share from 0 to 10"
    falling = [offer.expect.min_effect] if offer.expect.way is Way.DOWN else []
    falling += [guard.margin for guard in offer.guard if guard.better is Way.UP]
    if any(share >= 1 for share in falling):
        return "no figure falls by 100% or more: ask for less"
    words = " ".join(offer.reason.split())[:REASON]
    words = "".join(c if c.isprintable() else "?" for c in words)
    return (
        msgspec.structs.replace(offer, reason=words)
        if words
        else "a reason is missing: say why it should help"
    )


def metrics_of(offer: Offer) -> frozenset[str]:
    return frozenset({offer.expect.metric, *(guard.metric for guard in offer.guard)})


def unsensed(offer: Offer, owners: tuple[MetricOwner, ...], absent: Mapping[str, str]) -> Refusal | None:
    """Why the change could not be judged. `absent`: metric -> why this host cannot deliver it."""
    owned = {owner.name for owner in owners}
    wanted: tuple[Expect | Guard, ...] = (offer.expect, *offer.guard)
    for metric in (one.metric for one in wanted):
        if not known(metric) or is_glob(metric.partition("@")[2]):
            what = f"{metric[:80]!a} is no metric; docs/metrics.md lists what is sensed"
        elif metric.startswith("app.") and metric not in owned:
            what = f"{metric} has no owner in the policy: only the sender's user makes it count"
        elif metric in absent:
            what = f"{metric}: {absent[metric]}"
        else:
            continue
        return Refusal("no_metric", offer.writes[0].knob if offer.writes else "", what)
    return None
