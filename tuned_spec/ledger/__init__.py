"""The one writer of the kernel: journal (on record), ledger (writes), repair (the way back)."""
