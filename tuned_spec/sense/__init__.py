"""What the host is doing: counters and pressure read from /proc, gauges that programs report.

    metrics   the table: every metric's name, unit, good way, source and formula
    sources   files -> raw figures      rates     two raw readings -> metrics (pure)
    sensor    Sense, pace: one snapshot a tick
    triggers  the kernel wakes us on pressure     gauges   programs send us their own figures
    host      facts for people, through psutil; never imported by the daemon's loop

Must not know a rule, a knob or the loop.
"""
