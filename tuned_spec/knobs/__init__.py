"""Knobs: the catalogue (data), the adapters that reach the kernel's files, and the watch on other writers.

Knows nothing of rules, trials or the journal; `Adapter.write` takes the journal's receipt and nothing else.
"""
