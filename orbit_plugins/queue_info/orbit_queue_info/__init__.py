"""Show a batch system's queues, jobs and allocations through ORBIT.

This is what a user imports: the client, and the values that the answers are made of. A name is
imported when it is first asked for; `__init__.pyi` says from where.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
