import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "orbit_core"

ROWS = [
    "errors error_documents _page models _tasks _guard _rates _loop _memory _checked_send "
    "_handshake _signals _command_line _tls _eager _change _whole_frame _pace",
    "ways ways.models ways.relaying ways.address ways.leash",
    "batch.errors batch.models batch.durations batch.pbs_records",
    "batch.commands",
    "batch.system",
    "batch.slurm batch.pbs batch.none",
    "batch.registry",
    "batch",
    "_codec _store _lock _frames _session _lifetimes _cookies",
    "_messages",
    "ways.ssh ways.upstream ways.relay",
    "values config context _wire_events web auth _idempotency plugin_client _event_reader _stream "
    "_carrier",
    "_served _hello",
    "hookspecs sessions _description _link _events _http _server _watchdog host_role _member",
    "_hooks plugins plugin _registry _host _hub _link_transport _transport _pipe _answer "
    "_event_stream",
    "ways.rendezvous ways.child",
    "_callbacks _http_client",
    "client _address _register _proxy _metrics _openapi _inquiry _child_tokens _bridge_routes "
    "_dial",
    "ways.reach bridge endpoint",
    "_blocking testing command cli _bridge_role _endpoint_role serve",
    "__init__",
]
ROW = {module: number for number, row in enumerate(ROWS) for module in row.split()}

MODULES = sorted(CORE.rglob("*.py"))
PLUGIN_FILES = sorted(
    path
    for path in (ROOT / "orbit_plugins").glob("*/orbit_*/**/*.py")
    if "tests" not in path.relative_to(ROOT).parts
)


def name_of(path):
    """Return a module's name below orbit_core; a package's is its folder's."""
    parts = path.relative_to(CORE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def place(path):
    return str(path.relative_to(ROOT))


def imports(path):
    """Return the modules of orbit_core that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("orbit_core.") for alias in node.names
                      if alias.name.split(".")[0] == "orbit_core"}  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and (node.level or node.module == "orbit_core"):
            package = ".".join(path.relative_to(CORE).parts[:-1])
            names = {alias.name for alias in node.names}
            names = {node.module} if node.level and node.module else names
            found |= {f"{package}.{name}" if node.level and package else name for name in names}
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("orbit_core."):
            found.add(node.module.removeprefix("orbit_core."))
    return found


def test_every_module_has_its_row():
    assert sorted(ROW) == sorted(map(name_of, MODULES))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_from_its_own_row_and_those_above(path):
    below = {name for name in imports(path) if ROW[name] > ROW[name_of(path)]}

    assert not below


def test_no_modules_import_each_other_in_a_circle():
    TopologicalSorter({name_of(path): imports(path) for path in MODULES}).prepare()


@pytest.mark.parametrize("path", [*MODULES, *PLUGIN_FILES], ids=place)
def test_imports_stand_at_the_top_and_not_for_type_checkers_only(path):
    tree = ast.parse(path.read_text())
    inner = [
        node.lineno
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]

    assert not inner
    assert "TYPE_CHECKING" not in path.read_text()


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=place)
def test_a_plugin_imports_only_what_is_public(path):
    tree = ast.parse(path.read_text())
    private = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "orbit_core"
        for alias in node.names
        if "._" in f".{node.module}.{alias.name}"
    } | {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.startswith("orbit_core._")
    }

    assert not private
