"""Print what happens until so many notifications came, or Ctrl-C: python listen.py [COUNT]."""

import sys
from contextlib import suppress

from orbit_core import BridgeClient

wanted = int(sys.argv[1]) if len(sys.argv) > 1 else None
seen = 0
with suppress(KeyboardInterrupt), BridgeClient() as bridge:
    for event in bridge.events():
        if event.kind == "topology":
            print("connected:", ", ".join(event.data["endpoints"]), flush=True)
        elif event.kind == "gap":
            print("missed some:", event.data, flush=True)
        else:
            heard = event.data
            print(heard["endpoint"], heard["plugin"], heard["topic"], heard["data"], flush=True)
            seen += 1
            if seen == wanted:
                break
