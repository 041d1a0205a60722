"""Set hypothesis up for every suite: no deadline, since a busy machine is no fault of the code."""

from hypothesis import settings

settings.register_profile("orbit", deadline=None)
settings.load_profile("orbit")
