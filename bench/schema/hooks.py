"""What schemathesis cannot know: who is in a room, and what outlives its deletion."""

import os

import requests
import schemathesis
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import use_after_free

ROOM = "standup"
BASE = os.environ["UPRTC_BASE"]
HEADERS = {"Authorization": f"Bearer {os.environ['UPRTC_ADMIN']}"}
MIDS = ["0", "1"]
# A room need not be made, so none is ever gone: nobody is in it then, and a revocation holds whatever becomes of it.
LASTING = {"/v1/rooms/{room}/peers", "/v1/rooms/{room}/revocations"}


def is_positive(case):
    return case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE


@schemathesis.hook
def before_call(context, case, kwargs):
    """Three of four requests about a peer that are meant to be right are about one that is there: nobody guesses ids."""
    parameters = case.path_parameters or {}
    if "peer" not in parameters or not is_positive(case) or hash(case.id) % 4 == 0:
        return
    peers = requests.get(f"{BASE}/v1/rooms/{ROOM}/peers", headers=HEADERS, timeout=10).json()["peers"]
    if peers:
        parameters |= {"room": ROOM, "peer": peers[hash(case.id) % len(peers)]["peer"]}
    if "mid" in parameters:
        parameters["mid"] = MIDS[hash(case.id) % len(MIDS)]


@schemathesis.check
def deleted_is_gone(context, response, case):
    """What was deleted is not found any more."""
    return None if case.operation.path in LASTING else use_after_free(context, response, case)
