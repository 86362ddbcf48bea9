"""What schemathesis cannot know: the peers and the tasks in a room, and what remains after its deletion."""

import os
from urllib.parse import quote

import requests
import schemathesis
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import use_after_free

ROOM = "standup"
BASE = os.environ["UPRTC_BASE"]
HEADERS = {"Authorization": f"Bearer {os.environ['UPRTC_ADMIN']}"}
MIDS = ["0", "1"]
# Rooms need not be created, so a deleted room is an empty room, and its revocations stay in effect. A task that was stopped is shown for
# ten minutes.
LASTING = {
    "/v1/rooms/{room}/peers",
    "/v1/rooms/{room}/revocations",
    "/v1/rooms/{room}/revocations/{id}",
    "/v1/rooms/{room}/{kind}/{task}",
}
# The ids of the peers that were removed, and of those that were in a room just before a request for its deletion.
removed = set()
leaving = {}
# Where the latest tasks are.
tasks = []


def is_positive(case):
    return case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE


def peers_in(room):
    """The ids of the peers in a room; none if there is no such room."""
    answer = requests.get(f"{BASE}/v1/rooms/{quote(room, safe='')}/peers", headers=HEADERS, timeout=10)
    return [view["peer"] for view in answer.json()["peers"]] if answer.ok else []


@schemathesis.hook
def before_call(context, case, kwargs):
    """Three of four valid requests about a peer or a task use an existing one, because ids cannot be guessed."""
    parameters = case.path_parameters or {}
    if case.operation.path == "/v1/rooms/{room}" and case.method == "DELETE":
        leaving[case.id] = peers_in(str(parameters["room"]))
    if not is_positive(case) or hash(case.id) % 4 == 0:
        return
    if "task" in parameters and tasks:
        parameters |= tasks[hash(case.id) % len(tasks)]
    if "peer" not in parameters:
        return
    peers = peers_in(ROOM)
    if peers:
        parameters |= {"room": ROOM, "peer": peers[hash(case.id) % len(peers)]}
    if "mid" in parameters:
        parameters["mid"] = MIDS[hash(case.id) % len(MIDS)]


@schemathesis.check
def deleted_is_gone(context, response, case):
    """A deleted object is not found, and a peer that was removed never appears again, whatever room joins go on in."""
    path, is_removal = case.operation.path, case.method == "DELETE" and response.status_code == 204
    if path == "/v1/rooms/{room}" and is_removal:
        removed.update(leaving.pop(case.id, []))
    if "{peer}" not in path:
        is_remade = (case.path_parameters or {}).get("room") == ROOM  # each second, by bench/schema/run
        return None if is_remade or path in LASTING else use_after_free(context, response, case)
    peer = case.path_parameters["peer"]
    if response.status_code < 300:
        assert peer not in removed, f"the peer {peer} was removed before"
    if path == "/v1/rooms/{room}/peers/{peer}" and is_removal:
        removed.add(peer)
    return None


@schemathesis.hook
def after_call(context, case, response):
    """Remembers the tasks that were begun."""
    if case.operation.path == "/v1/rooms/{room}/{kind}" and case.method == "POST" and response.status_code == 201:
        of = {key: case.path_parameters[key] for key in ("room", "kind")}
        tasks.append(of | {"task": response.json()["task"]})
        del tasks[:-16]
