"""Runs inside a container (as text on python3's stdin): prints a line at each unit signal of PID 1 and each journal
line, so that a test waits for something to happen and then looks, instead of sleeping."""

import os
import select
import subprocess
import sys

from jeepney import DBusAddress, MatchRule, message_bus, new_method_call
from jeepney.io.blocking import open_dbus_connection

MANAGER = DBusAddress("/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager")

bus = open_dbus_connection("SYSTEM")
rule = MatchRule(type="signal", sender="org.freedesktop.systemd1")
bus.send_and_get_reply(message_bus.AddMatch(rule))
bus.send_and_get_reply(new_method_call(MANAGER, "Subscribe"))
journal = subprocess.Popen(["journalctl", "-q", "-f", "-n0", "-o", "cat"], stdout=subprocess.PIPE)
assert journal.stdout is not None
print("ready", flush=True)
poll = select.poll()
for descriptor in (bus.sock.fileno(), journal.stdout.fileno(), sys.stdin.fileno()):
    poll.register(descriptor, select.POLLIN)
while True:
    for descriptor, _ in poll.poll():
        if descriptor == bus.sock.fileno():
            bus.receive(timeout=1)
            print("signal", flush=True)
        elif os.read(descriptor, 1 << 16):
            print("journal", flush=True)
        else:
            journal.kill()
            sys.exit(0)
