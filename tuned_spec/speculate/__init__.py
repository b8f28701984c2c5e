"""The fast guess: observations in, proposals out. Pure."""
