"""Set hypothesis up for every suite: no deadline, since a busy machine is no fault of the code.

The profile ``nightly`` (``pytest --hypothesis-profile nightly``) tries 10,000 examples each;
``isolated`` few, for a second run of the same tests that is about how they are installed.
"""

from hypothesis import settings

settings.register_profile("orbit", deadline=None)
settings.register_profile("nightly", settings.get_profile("orbit"), max_examples=10_000)
settings.register_profile("isolated", settings.get_profile("orbit"), max_examples=10)
settings.load_profile("orbit")
