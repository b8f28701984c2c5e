"""The pure loop: `step`, the state it carries, the events and commands it maps between."""

from tuned_spec.engine.state import Learned, Setup, State, describe, find_pending
from tuned_spec.engine.step import next_wake, step

__all__ = ["Learned", "Setup", "State", "describe", "find_pending", "next_wake", "step"]
