"""Read-only questions about this host that an actor may ask by name (`names`); nothing here writes."""
