"""The lookout: a small process that hears the kernel's netlink events for the daemon, and says them briefly.

Started only when a loaded policy needs it: pyroute2 is for this process alone, and costs the daemon nothing.
"""
