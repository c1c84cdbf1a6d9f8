"""Inside the container: nginx under systemd alone, supervisord and monit, each as favourable to it as it can be set.

usage: python3 -m inside.peers SECONDS
First a SIGKILL of all nginx processes, which each of them has to heal (or the comparison means nothing); then the
corrupted configuration with a restart by the peer's own means, watched for SECONDS.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from inside.client import CONFIG, damage, served, wait_served
from inside.host import answer, give_up, now_us, run

CONTROL_SECONDS = 30.0
SUPERVISORD = """\
[unix_http_server]
file=/run/bench-supervisor.sock
[supervisord]
nodaemon=true
logfile=/dev/null
logfile_maxbytes=0
pidfile=/run/bench-supervisord.pid
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix:///run/bench-supervisor.sock
[program:nginx]
command=/usr/sbin/nginx -g "daemon off;"
autorestart=true
startsecs=0
startretries=1000
killasgroup=true
"""
MONIT = """\
set daemon 1
set pidfile /run/bench-monit.pid
set idfile /run/bench-monit.id
set statefile /run/bench-monit.state
check process nginx with pidfile /run/nginx.pid
    start program = "/usr/bin/systemctl restart nginx.service"
    stop program = "/usr/bin/systemctl stop nginx.service"
    if failed host 127.0.0.1 port 80 protocol http then restart
"""
SYSTEMD = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=1\n"


def put(path: str, text: str) -> str:
    """A file for root only, as monit wants it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    Path(path).chmod(0o600)
    return path


def stay(name: str, *argv: str) -> None:
    """A peer's daemon, as a unit."""
    run("systemd-run", "--quiet", "--collect", f"--unit={name}", "--", *argv)


def systemd() -> list[str]:
    """Restart=always without a start limit."""
    put("/etc/systemd/system/nginx.service.d/50-bench.conf", SYSTEMD)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "nginx.service")
    return ["systemctl", "restart", "nginx.service"]


def supervisord() -> list[str]:
    """nginx in the foreground, restarted a thousand times."""
    file = put("/etc/supervisor/bench.conf", SUPERVISORD)
    stay("bench-supervisord", "/usr/bin/supervisord", "-n", "-c", file)
    return ["supervisorctl", "-c", file, "restart", "nginx"]


def monit() -> list[str]:
    """Debian's unit, looked at every second; start and stop through systemd."""
    run("systemctl", "start", "nginx.service")
    stay("bench-monit", "/usr/bin/monit", "-I", "-c", put("/etc/bench-monitrc", MONIT))
    return ["systemctl", "restart", "nginx.service"]


def clean() -> None:
    """Before and after each peer: nothing of the last one is left."""
    run("systemctl", "stop", "bench-supervisord.service", "bench-monit.service", check=False)
    Path("/etc/systemd/system/nginx.service.d/50-bench.conf").unlink(missing_ok=True)
    run("systemctl", "daemon-reload")
    run("systemctl", "stop", "nginx.service", check=False)
    run("systemctl", "reset-failed", check=False)
    kill_nginx()


def kill_nginx() -> None:
    """SIGKILL to every nginx of this container."""
    for entry in Path("/proc").glob("[0-9]*/comm"):
        try:
            if entry.read_text().strip() == "nginx":
                os.kill(int(entry.parent.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            continue


def watch(seconds: float) -> dict[str, Any]:
    """How often it was served in the window, and when first."""
    since_us, answers, first = now_us(), 0, None
    while now_us() - since_us < seconds * 1e6:
        if served():
            answers += 1
            first = first or (now_us() - since_us) / 1000
        time.sleep(0.02)
    return {"answers": answers, "first_ms": first, "watched_s": (now_us() - since_us) / 1e6}


def measure(name: str, seconds: float, number: int, good: bytes) -> dict[str, Any]:
    """One peer."""
    clean()
    restart = {"systemd": systemd, "supervisord": supervisord, "monit": monit}[name]()
    if wait_served(CONTROL_SECONDS) is None:
        give_up(f"nginx is not served under {name}")
    # Past the peer's own start-up: it has seen nginx run.
    time.sleep(3)
    since_us = now_us()
    kill_nginx()
    back_us = wait_served(CONTROL_SECONDS)
    if back_us is None:
        give_up(f"{name} did not even bring back a killed nginx: the comparison would mean nothing")
    assert back_us is not None
    time.sleep(3)
    way = damage(good, number)
    run(*restart, check=False)
    result = {"peer": name, "way": way, "kill_ms": (back_us - since_us) / 1000, **watch(seconds)}
    clean()
    CONFIG.write_bytes(good)
    return result


def main(seconds: str) -> None:
    """See the module."""
    good = CONFIG.read_bytes()
    names = ("systemd", "supervisord", "monit")
    answer([measure(name, float(seconds), number, good) for number, name in enumerate(names)])


if __name__ == "__main__":
    main(*sys.argv[1:])
