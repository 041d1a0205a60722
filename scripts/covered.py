"""Compare the branch coverage of each package with the least that it must have.

Reads what ``pytest --cov`` measured in this folder; ends with 1 if a package has less.
"""

import io
import sys
from pathlib import Path

from coverage import Coverage

ROOT = Path(__file__).resolve().parent.parent
LEAST = {
    "orbit_core": 100.0,
    "orbit_plugins/psij": 95.0,
    "orbit_plugins/queue_info": 95.0,
    "orbit_plugins/rhapsody": 95.0,
    "orbit_plugins/staging": 95.0,
    "orbit_plugins/sysinfo": 95.0,
    "orbit_plugins/xgfabric": 95.0,
}
"""Per cent of the lines and branches of each folder."""


def main() -> None:
    """Print a line for each package."""
    measured = Coverage(data_file=str(ROOT / ".coverage"), config_file=str(ROOT / "pyproject.toml"))
    measured.load()
    short = False
    for folder, least in LEAST.items():
        included = str(ROOT / folder / "*")
        found = measured.report(include=included, file=io.StringIO())
        short |= found < least
        print(f"{folder}: {found:.2f} % covered, {least:g} % wanted")
    sys.exit(short)


if __name__ == "__main__":
    main()
