"""tuned-spec: speculative, reversible tuning of a Linux host."""

__version__ = "0.1.0"
