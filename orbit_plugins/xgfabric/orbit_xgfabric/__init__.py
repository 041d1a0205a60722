"""Run a sensor-driven simulation workflow across the clusters of ORBIT.

This is what a user imports; it needs nothing of what serves the plugin. A name is imported when it
is first asked for; `__init__.pyi` says from where.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
