"""Ask a bridge in plain HTTP, and look at what it answers."""

import httpx


def opened(deployment, token=None):
    """Return a client that shows ``token``, or none."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(base_url=deployment.url, headers=headers, verify=False)


def fault(reply):
    """Return an error document's status, code and detail, after a look at its form."""
    document = reply.json()
    assert sorted(document) == ["code", "detail", "error", "status_code"]
    assert document["error"] is True
    assert document["status_code"] == reply.status_code
    return reply.status_code, document["code"], document["detail"]


def fault_code(reply):
    """Return an error document's status and code."""
    return fault(reply)[:2]
