import datetime

import pytest
import trustme

from orbit_core._address import certificate_names, public_url
from orbit_core.config import BridgeConfig
from orbit_core.testing import open_deployment


def certified(folder, *names, **validity):
    """Write a certificate for these names and its key, and return the settings that name them."""
    leaf = trustme.CA().issue_cert(*names, **validity)
    cert, key = folder / "cert.pem", folder / "key.pem"
    leaf.cert_chain_pems[0].write_to_path(cert)
    leaf.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    return {"cert": cert, "key": key}


@pytest.mark.parametrize(
    ("host", "names", "told"),
    [
        ("hub.example.org", ["node.example.org", "hub.example.org"], "hub.example.org"),
        ("hub.example.org", ["*.example.org", "x.example.org"], "hub.example.org"),
        ("node7", ["localhost", "hub.example.org"], "hub.example.org"),
        ("localhost", ["localhost", "hub.example.org"], "hub.example.org"),
        ("192.0.2.7", ["hub.example.org"], "hub.example.org"),
        ("node7", ["192.0.2.7"], "192.0.2.7"),
        ("node7", ["2001:db8::7"], "[2001:db8::7]"),
        ("node7", ["localhost"], "localhost"),
        ("node7", ["*.example.org"], "node7"),
    ],
    ids=["its own", "wildcard", "other", "public", "name for address", "address", "version 6",
         "none but local", "none"],
)  # fmt: skip
def test_the_bridge_is_called_by_a_name_that_its_certificate_has(tmp_path, host, names, told):
    config = BridgeConfig(host="0.0.0.0", **certified(tmp_path, *names))
    assert public_url(f"https://{host}:8443", config) == f"https://{told}:8443"


def test_a_bridge_for_its_own_host_is_called_as_it_listens(tmp_path):
    config = BridgeConfig(host="127.0.0.1", **certified(tmp_path, "hub.example.org"))
    assert public_url("https://127.0.0.1:8443", config) == "https://127.0.0.1:8443"


def test_a_certificate_that_nobody_takes_any_more_has_no_names(tmp_path):
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    found = certified(tmp_path, "hub.example.org", not_after=past)
    assert certificate_names(found["cert"], found["key"]) == []


@pytest.mark.anyio
async def test_what_is_left_for_this_host_fits_the_certificate(tmp_path):
    settings = certified(tmp_path, "localhost")
    config = BridgeConfig(host="0.0.0.0", port=0, plugins=[], **settings)
    async with open_deployment(tmp_path, config=config) as deployment:
        url = (tmp_path / "bridge" / "url").read_text()
        async with deployment.client() as client:
            told = await client.request("POST", "/endpoint/list")
            assert url == deployment.url == told["data"]["bridge"]["url"]
    assert url.startswith("https://localhost:")
