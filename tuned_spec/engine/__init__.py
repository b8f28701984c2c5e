"""The pure loop: `step`, the state it carries, the events and commands it maps between."""

from tuned_spec.engine.state import Setup, State, describe
from tuned_spec.engine.step import next_wake, step

__all__ = ["Setup", "State", "describe", "next_wake", "step"]
