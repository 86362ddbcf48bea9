"""The HTTP part of a WHIP or WHEP client (RFC 9725), and the report to the test."""

import json
import sys
import urllib.request


def offer(url: str, token: str, sdp: str) -> tuple[str, str]:
    """POSTs an offer. Returns the answer and the address of the resource."""
    headers = {"Content-Type": "application/sdp", "Authorization": f"Bearer {token}"}
    with urllib.request.urlopen(urllib.request.Request(url, sdp.encode(), headers, method="POST")) as reply:
        return reply.read().decode(), reply.headers["Location"]


def leave(resource: str, token: str) -> int:
    """DELETEs the resource. Returns the status."""
    request = urllib.request.Request(resource, headers={"Authorization": f"Bearer {token}"}, method="DELETE")
    with urllib.request.urlopen(request) as reply:
        return reply.status


def report(**facts) -> None:
    """One line of JSON for the test."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
