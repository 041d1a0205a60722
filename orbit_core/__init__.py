"""Reach HPC machines behind firewalls: a bridge, endpoints that dial out to it, and plugins.

A public name is imported when it is first asked for: who writes a plugin does not wait for the
HTTP client, and who uses the client does not wait for what serves plugins. `__init__.pyi` says
where each comes from.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
