import json
import sys

_SCRIPT = """#!{python}
import json, sys
with open({calls!r}, "a") as calls:
    calls.write(json.dumps([{name!r}, *sys.argv[1:]]) + "\\n")
for part, status, stdout, stderr in json.load(open({answers!r})):
    if part in " ".join(sys.argv[1:]):
        sys.stdout.write(stdout)
        sys.stderr.write(stderr)
        sys.exit(status)
sys.exit("unexpected: " + " ".join(sys.argv))
"""


class Commands:
    """Stand for a scheduler's commands on PATH, and keep what they were called with."""

    def __init__(self, folder):
        self.folder = folder
        self._calls = folder / "calls"
        self._answers = {}

    def answer(self, name, stdout="", *, status=0, stderr="", to=""):
        """Have a command answer so if ``to`` stands in its arguments; the last one counts."""
        known = self._answers.setdefault(name, [])
        known.insert(0, (to, status, stdout, stderr))
        answers = self.folder / f"{name}.json"
        answers.write_text(json.dumps(known))
        text = _SCRIPT.format(
            python=sys.executable, name=name, calls=str(self._calls), answers=str(answers)
        )
        self.install(name, text)

    def install(self, name, script):
        path = self.folder / name
        path.write_text(script)
        path.chmod(0o755)

    def calls(self, name=None):
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [call for call in map(json.loads, lines) if name in (None, call[0])]
