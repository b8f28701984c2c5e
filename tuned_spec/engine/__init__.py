"""The pure loop: `step`, the state it carries, the events and commands it maps between."""

from tuned_spec.engine.state import Learned, Setup, State
from tuned_spec.engine.step import next_wake, step
from tuned_spec.engine.telling import describe, find_pending

__all__ = ["Learned", "Setup", "State", "describe", "find_pending", "next_wake", "step"]
