"""Test what users install: wheels, each plugin with core alone, and a third party's plugin.

Every plugin is installed from its wheel beside core's wheel into a new environment, and its tests
pass there. The template, copied elsewhere and renamed, is installed with plain pip and served by
the next ``orbit-serve`` without any other change. Arguments go to pytest, for the plugins' tests.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = {"orbit_psij": "endpoint", "orbit_rhapsody": "dask", "orbit_xgfabric": "endpoint"}
TOOLS = ["pytest", "pytest-cov", "pytest-xdist", "hypothesis", "blockbuster"]


def run(*command: str | Path, **options: object) -> str:
    """Run a command and return what it printed; a failure ends the job."""
    print("+", " ".join(map(str, command)), flush=True)
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {command[0]} ended with {done.returncode}")
    return str(done.stdout)


def build(work: Path) -> Path:
    """Build every wheel and return their folder."""
    wheels = work / "wheels"
    for source in (ROOT, *sorted((ROOT / "orbit_plugins").iterdir())):
        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, source)
    return wheels


def environment(folder: Path, *requirements: str | Path, wheels: Path) -> Path:
    """Make a virtual environment with these requirements and return its python."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    constraint = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    run(python, "-m", "pip", "install", "-q", "--find-links", wheels, *requirements, env=constraint)
    return python


def run_tests(python: Path, tests: Path, work: Path, *options: str) -> None:
    """Run tests in an environment, and print how they ended."""
    command: list[str | Path] = [python, "-m", "pytest", "-q", "--import-mode=importlib"]
    command += ["-p", "no:cacheprovider", "-o", "filterwarnings=error", *options]
    print(run(*command, tests, cwd=work).splitlines()[-1])


def test_plugin(wheel: Path, work: Path) -> None:
    """Run one plugin's tests with only core and it installed."""
    name = wheel.name.split("-")[0]
    extra = f"[{EXTRAS[name]}]" if name in EXTRAS else ""
    python = environment(work / name, f"{wheel}{extra}", *TOOLS, wheels=wheel.parent)
    copied = work / f"{name}-tests"
    shutil.copytree(ROOT / "orbit_plugins" / name.removeprefix("orbit_") / "tests", copied)
    shutil.copy(ROOT / "conftest.py", work)
    run_tests(python, copied, work, *sys.argv[1:], "--hypothesis-profile", "isolated")


def test_third_party(wheels: Path, work: Path) -> None:
    """Install the renamed template with pip: its tests pass and the next start serves it."""
    copied = work / "acme"
    shutil.copytree(
        ROOT / "templates" / "plugin", copied, ignore=shutil.ignore_patterns("__pycache__")
    )
    (copied / "orbit_example").rename(copied / "orbit_acme")
    for path in copied.rglob("*"):
        if path.suffix in (".py", ".toml", ".md"):
            text = path.read_text()
            path.write_text(
                text.replace("orbit_example", "orbit_acme")
                .replace("orbit-example", "orbit-acme")
                .replace("example =", "acme =")
            )
    python = environment(work / "third-party", copied, *TOOLS, wheels=wheels)
    run_tests(python, copied / "tests", work)
    print(run(python, ROOT / "scripts" / "serve_once.py", "acme", cwd=work))


def main() -> None:
    """Run the isolation job."""
    with tempfile.TemporaryDirectory(prefix="orbit-isolation-") as folder:
        work = Path(folder)
        wheels = build(work)
        for wheel in sorted(wheels.glob("orbit_*.whl")):
            if not wheel.name.startswith("orbit_core-"):
                test_plugin(wheel, work)
        test_third_party(wheels, work)


if __name__ == "__main__":
    main()
