"""graced-exporter: /metrics for Prometheus on a loopback socket that systemd opened.

Every scrape asks the supervisor, Infrastructure and Governance anew. Kept is only the histogram of the starts that
were seen.
"""

from __future__ import annotations

from graced.base.config import Option
from graced.base.errors import FormatError, GracedError, HostError
from graced.base.log import NOTICE, WARNING
from graced.exporter.http import Request, Response, Server, text
from graced.exporter.scrape import Scraper
from graced.runtime.kernel import Kernel, kernel_main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.base.sockets import Socket

OPTIONS = (
    Option(
        "exporter",
        "ask_timeout",
        "duration_s",
        2.0,
        "How long the supervisor, Infrastructure and Governance may take to answer a scrape.",
        low=0.1,
        high=10,
    ),
)
LOOK_SECONDS = 5.0
DEVELOPMENT_ADDRESS = ("127.0.0.1", 9473)

_LANDING = b"""<!doctype html>
<html lang="en"><title>graced</title>
<h1>graced exporter</h1>
<p><a href="/metrics">/metrics</a></p>
</html>
"""


class Exporter(Kernel):
    """Answers scrapes."""

    name = "exporter"
    options = OPTIONS

    def __init__(self) -> None:
        super().__init__()
        self._server = Server(self.loop, self._page)
        self._scraper = Scraper()
        self._scrapes = 0
        self._silent: dict[str, str] = {}

    def _sockets(self) -> list[Socket]:
        # These sockets speak HTTP, so they are not for the Varlink service.
        for sock in super()._sockets() or [_bind()]:
            self._server.listen(sock)
        return []

    def status(self) -> str:
        """One sentence for `systemctl status`."""
        silent = f"; no answer from {', '.join(sorted(self._silent))}" if self._silent else ""
        return f"{self._scrapes} scrapes answered{silent}"

    def drain(self) -> None:
        """Take no new scrapes."""
        self._server.close_listeners()

    def drained(self) -> bool:
        """Whether all answers are out."""
        return self._server.connection_count == 0

    def started(self) -> None:
        """Look now and then, so that a start between two scrapes is counted too."""
        self.every(LOOK_SECONDS, lambda: self.loop.spawn(self._look()))

    async def _look(self) -> None:
        kernels = await self._ask("infrastructure", "io.graced.Infrastructure.Kernels")
        if kernels is None:
            return
        try:
            self._scraper.look(kernels)
        except FormatError as error:
            self.log(WARNING, f"exporter: a wrong answer was left out: {error}")

    async def _page(self, request: Request) -> Response:
        if request.path == "/":
            return Response(200, "text/html; charset=utf-8", _LANDING)
        if request.path != "/metrics":
            return text(404, "the metrics are at /metrics")
        return await self._metrics(request.headers.get("accept", ""))

    async def _metrics(self, accept: str) -> Response:
        from graced.exporter.render import exposition

        metrics, kernels, rule = await self.loop.gather(
            self._ask("supervisor", "io.graced.Supervisor.Metrics"),
            self._ask("infrastructure", "io.graced.Infrastructure.Kernels"),
            self._ask("governance", "io.graced.Governance.State"),
        )
        families, problems = self._scraper.families(metrics, kernels, rule)
        for problem in problems:
            self.log(WARNING, f"exporter: a wrong answer was left out: {problem}")
        body, content_type = exposition(families, accept)
        self._scrapes += 1
        return Response(200, content_type, body)

    async def _ask(self, source: str, method: str) -> JsonDict | None:
        try:
            reply = await self.call(method, {}, timeout_s=self.config["ask_timeout"])
        except GracedError as error:
            if self._silent.get(source) != error.message:
                self._silent[source] = error.message
                self.log(NOTICE, f"exporter: {source} does not answer: {error}")
            return None
        self._silent.pop(source, None)
        return reply


def _bind() -> Socket:
    """The listening socket when systemd did not pass one (development). Raises HostError when it is taken."""
    from socket import create_server

    try:
        return create_server(DEVELOPMENT_ADDRESS, backlog=32)
    except OSError as error:
        host, port = DEVELOPMENT_ADDRESS
        raise HostError(f"{host}:{port}: {error.strerror}", hint="is another exporter running?") from error


main = kernel_main(Exporter)
