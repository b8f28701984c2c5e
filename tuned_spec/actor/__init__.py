"""The other process: judges changes on evidence. Only `channel` may be imported by the daemon."""
