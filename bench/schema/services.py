"""Services that take every order (docs/SERVICES.md): one of each role. A task runs for two seconds, or until it is to stop.

They stand in for `uprtc record`, `live`, `feed` and `sip`, which would join each room that schemathesis thinks of.
usage: services.py BASE ADMIN_TOKEN      prints `ready` when each has reported once
"""

import secrets
import sys
import threading
import time

import requests

ROLES = ["recorder", "streamer", "telephone", "feed"]
RUNS_S = 2
BASE, ADMIN = sys.argv[1:]
ready = threading.Barrier(len(ROLES) + 1)


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def serve(role):
    asked = {"room": "*", "name": role, "role": role}
    token, is_first = None, True
    while True:
        if token is None:
            service, seq, began = secrets.token_hex(8), 0, {}  # of each task: its order, and when it ends
            token = requests.post(f"{BASE}/v1/tokens", json=asked, headers=bearer(ADMIN), timeout=10).json()["token"]
        ended = {task for task, (_, until) in began.items() if until <= time.monotonic()}
        tasks = [
            {"order": order, "state": "ended" if task in ended else "running", **({"reason": "over"} if task in ended else {})}
            for task, (order, _) in began.items()
        ]
        seq += 1
        report = {"service": service, "seq": seq, "tasks_max": 256, "tasks": tasks}
        # While something runs it does not wait for orders: the end of a task has to be told.
        patience = 0.5 if began else 10
        try:
            answer = requests.post(f"{BASE}/v1/services", json=report, headers=bearer(token), timeout=patience)
        except requests.exceptions.ReadTimeout:
            for task in ended:
                del began[task]
            continue
        if not answer.ok:
            print(role, answer.status_code, answer.text, file=sys.stderr)
            token = None  # A request may have revoked it.
            time.sleep(0.1)
            continue
        if is_first:
            is_first = False
            ready.wait()
        for task in ended:
            del began[task]
        orders = answer.json()
        for start in orders.get("start", []):
            began[start["order"]["task"]] = (start["order"], time.monotonic() + RUNS_S)
        for task in orders.get("stop", []):
            if task in began:
                began[task] = (began[task][0], 0)


for role in ROLES:
    threading.Thread(target=serve, args=[role], daemon=True).start()
ready.wait()
print("ready", flush=True)
threading.Event().wait()
