"""Runs inside the virtual machine until its power is cut: tasks, ledger entries, repairs and key changes at once.

Whatever graced acknowledged leaves through /dev/virtio-ports/acks at once, one line of JSON each.
"""

import contextlib
import json
import os
import subprocess
import threading
import time
import urllib.request

from graced.varlink.client import Client

SOCKET = "/run/graced/io.graced.Supervisor"
CONFIG = "/etc/nginx/nginx.conf"
lock = threading.Lock()
port = os.open("/dev/virtio-ports/acks", os.O_WRONLY)


def ack(**what):
    line = json.dumps(what).encode() + b"\n"
    with lock:
        assert os.write(port, line) == len(line)


def tasks():
    with Client(SOCKET, 60.0) as client:
        for number in range(1_000_000):
            asked = {"handler": "chore", "task_type": "any", "context": {"n": number}, "idempotency_key": f"n{number}"}
            ack(task=client.call("io.graced.HTM.Submit", asked)["task_id"])
            time.sleep(0.05)


def entries():
    with Client(SOCKET, 60.0) as client:
        for number in range(1_000_000):
            asked = {"kind": "step", "data": {"power": number}}
            ack(entry=client.call("io.graced.Ledger.Append", asked)["seq"], n=number)
            if number % 20 == 0:
                ack(head=client.call("io.graced.Ledger.Head")["checkpoint"])
            time.sleep(0.05)


def serves():
    with contextlib.suppress(OSError):
        urllib.request.urlopen("http://127.0.0.1/", timeout=5).close()
        return True
    return False


def faults():
    for number in range(1_000_000):
        if number % 2:
            with open(CONFIG, "w") as file:
                file.write(f"nonsense {time.time()}\n")
            subprocess.run(["systemctl", "restart", "nginx"], check=False, capture_output=True)
        else:
            subprocess.run(["systemctl", "kill", "--signal=KILL", "nginx"], check=True)
        ack(fault=number)
        while not serves():
            time.sleep(0.2)
        ack(healed=number)


def keys():
    signers = ("ledger", "governance", "verification")
    for number in range(1_000_000):
        done = subprocess.run(
            ["gracectl", "keys", "rotate", signers[number % 3], "--reason", "power"], check=False, capture_output=True
        )
        if done.returncode == 0:
            listed = subprocess.run(["gracectl", "keys", "list", "--json=short"], check=True, capture_output=True)
            ack(keys={one["kid"]: one["signer"] for one in json.loads(listed.stdout)})
        time.sleep(2)


for job in (tasks, entries, faults, keys):
    threading.Thread(target=job).start()
