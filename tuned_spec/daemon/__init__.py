"""The shell around the pure loop: wiring, event loop, signals. The only place where clocks tick."""

from tuned_spec.daemon.options import Options
from tuned_spec.daemon.serve import serve

__all__ = ["Options", "serve"]
