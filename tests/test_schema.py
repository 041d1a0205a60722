"""Fuzz every route of a bridge with what its own description says that it takes, and with less."""

import anyio.from_thread
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.stateful import run_state_machine_as_test
from orbit_psij.plugin import PSIJPlugin
from orbit_sysinfo.plugin import SysInfoPlugin
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from orbit_core import _dial, _server
from orbit_core._bridge_routes import OPEN_PATHS
from orbit_core.config import BridgeConfig
from orbit_core.testing import ADMIN, open_deployment

# PSI/J leaves the pipe of a local job to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedReader:ResourceWarning")

PLUGINS = [f"{kind.__module__}:{kind.__name__}" for kind in (PSIJPlugin, SysInfoPlugin)]
ENDLESS = "/events$|/metrics/stream$"
DISRUPTIVE = f"{ENDLESS}|/terminate$|/disconnect/"
BOUNDED = settings(
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    stateful_step_count=8,
)
PATHS = ("directory", "stdin_path", "stdout_path", "stderr_path", "pre_launch", "post_launch")


def nothing_fails_in_the_server(context, response, case):
    assert response.status_code < 500, response.text


def an_error_is_the_error_document(context, response, case):
    if response.status_code >= 400:
        document = response.json()
        assert sorted(document) == ["code", "detail", "error", "status_code"]
        assert (document["error"], document["status_code"]) == (True, response.status_code)


CHECKS = [
    nothing_fails_in_the_server,
    an_error_is_the_error_document,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
    checks.allow_header_conformance,
]


def only_harmless_jobs(context, body):
    """Have a job that may be started run nothing, and write nowhere."""
    job = body.get("job_spec") if isinstance(body, dict) else None
    if not isinstance(job, dict):
        return body
    harmless = {"executable": "/bin/true"} | dict.fromkeys(PATHS)
    changed = {name: value for name, value in harmless.items() if isinstance(job.get(name), str)}
    return body | {"job_spec": job | changed}


class Api:
    """Hold a description, and what is needed to call what it describes."""

    def __init__(self, url, token):
        self.headers = {"Authorization": f"Bearer {token}"}
        self.schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=self.headers)
        self.schema.hook("map_body")(only_harmless_jobs)

    def check_all(self, cases):
        """Make some of ``cases``, and look at the answers."""

        @settings(BOUNDED, max_examples=15)
        @given(cases)
        def check(case):
            case.call_and_validate(headers=self.headers, checks=CHECKS, timeout=30)

        check()


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schema")
    config = BridgeConfig(port=0, plugins=[], rate_limit=0)
    opened = open_deployment(folder, plugins={"node": PLUGINS}, config=config)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for module in (_dial, _server):  # a ping draws from `random`, which Hypothesis watches over
            patch.setattr(module, "PING_INTERVAL", 3600.0)
        with (
            anyio.from_thread.start_blocking_portal() as portal,
            portal.wrap_async_context_manager(opened) as deployment,
        ):
            yield Api(deployment.url, portal.call(deployment.token, ADMIN))


@pytest.fixture
def job(api):
    """Return a session and a job that there are."""
    submit = api.schema["/node/psij/submit/{sid}"]["POST"]
    body = {"job_spec": {"executable": "/bin/true"}}
    case = submit.Case(path_parameters={"sid": "default"}, body=body, media_type="application/json")
    return {"sid": "default", "job_id": case.call(headers=api.headers).json()["job_id"]}


def test_every_route_keeps_its_word(api, job, subtests):
    for found in api.schema.exclude(path_regex=ENDLESS).get_all_operations():
        operation = found.ok()
        known = {name: value for name, value in job.items() if f"{{{name}}}" in operation.path}
        strategies = [operation.as_strategy()]
        if known:
            strategies.append(operation.as_strategy(path_parameters=known))
        if operation.path not in OPEN_PATHS:  # where nothing can be wrong
            strategies.append(operation.as_strategy(GenerationMode.NEGATIVE))
        for cases in strategies:
            with subtests.test(operation.label):
                api.check_all(cases)


def test_what_one_route_gives_the_next_one_takes(api):
    machine = api.schema.exclude(path_regex=DISRUPTIVE).as_state_machine()

    class Chain(machine):
        def get_call_kwargs(self, case):
            return {"headers": api.headers, "timeout": 30}

        def validate_response(self, response, case, **settings):
            case.validate_response(response, checks=CHECKS)

    run_state_machine_as_test(Chain, settings=settings(BOUNDED, max_examples=40))
