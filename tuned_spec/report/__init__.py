"""Pictures and pages: what happened to a metric while knobs were changed, for a person to look at."""
