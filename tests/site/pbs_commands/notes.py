"""Keep what only qsub knows of a job in its comment, in letters that scontrol leaves alone."""

import base64
import json


def note(told):
    """Return a dict as such letters."""
    return base64.urlsafe_b64encode(json.dumps(told).encode()).decode()


def read_note(comment):
    """Return the dict again; empty for the comment of a job that qsub did not make."""
    try:
        return json.loads(base64.urlsafe_b64decode(comment or "e30="))
    except ValueError:
        return {}
