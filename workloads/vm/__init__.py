"""Virtual machines with other kernels, to prove the catalogue where this host cannot.

`image` builds the disk once, `guest` runs machines from it. They know nothing of knobs: what is run
inside is the caller's command, in a copy of the caller's checkout.
"""
