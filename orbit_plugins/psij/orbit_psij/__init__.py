"""Submit, watch and cancel jobs on an ORBIT endpoint through PSI/J.

This is what a user imports; it needs no PSI/J. A name is imported when it is first asked for;
`__init__.pyi` says from where.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
