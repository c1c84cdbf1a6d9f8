"""Memory: incidents and their outcomes, documents and their chunks, full-text search.

The kernel checks who may write what and hands over to `graced.store.memory`. An answer to a Put means that it is
on disk. It keeps answering reads while the disk is full; a write then fails with Unavailable and the reason.
"""

from __future__ import annotations

from graced.base.config import Option
from graced.base.errors import FormatError
from graced.base.json import get_dict, get_list, get_str, opt_bool, opt_int, opt_str
from graced.base.words import counted
from graced.runtime.kernel import Kernel, kernel_main
from graced.runtime.peer import READ
from graced.runtime.service import Interface
from graced.store.memory import MemoryStore
from graced.varlink.wire import VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.config import Config
    from graced.base.json import JsonDict
    from graced.runtime.connection import Call

INTERFACE = "io.graced.Memory"
MAX_ROWS = 1000
MAX_HITS = 100


class MemoryInterface(Interface):
    """io.graced.Memory."""

    name = INTERFACE
    acl = {
        "PutIncident": frozenset({"supervisor"}),
        "PutDocument": frozenset({"librarian"}),
        "Incidents": READ,
        "Incident": READ,
        "Documents": READ,
        "Search": READ,
        "Stats": READ,
    }

    def __init__(self, kernel: MemoryKernel) -> None:
        self._kernel = kernel

    def PutIncident(self, call: Call) -> JsonDict:
        incident, closed = self._kernel.store.put_incident(get_dict(call.parameters, "incident"))
        if closed:
            self._kernel.count("graced_incidents_total", outcome=incident["outcome"])
        return {}

    def Incidents(self, call: Call) -> JsonDict:
        unit = opt_str(call.parameters, "unit")
        open_only = opt_bool(call.parameters, "open_only") or False
        rows = self._kernel.store.incidents(unit, open_only=open_only, limit=_limit(call, 100, MAX_ROWS))
        return {"incidents": rows}

    def Incident(self, call: Call) -> JsonDict:
        incident_id = get_str(call.parameters, "id")
        found = self._kernel.store.incident(incident_id)
        if found is None:
            raise VarlinkError(f"{INTERFACE}.NoSuchIncident", {"id": incident_id})
        return {"incident": found}

    def PutDocument(self, call: Call) -> JsonDict:
        document = get_dict(call.parameters, "document")
        document_id, created = self._kernel.store.put_document(document, get_list(call.parameters, "chunks"))
        if created:
            self._kernel.count("graced_documents_total")
        return {"document_id": document_id, "created": created}

    def Documents(self, call: Call) -> JsonDict:
        return {"documents": self._kernel.store.documents(_limit(call, 100, MAX_ROWS))}

    def Search(self, call: Call) -> JsonDict:
        query = get_str(call.parameters, "query")
        return {"hits": self._kernel.store.search(query, _limit(call, 10, MAX_HITS))}

    def Stats(self, _call: Call) -> JsonDict:
        return {"stats": self._kernel.store.stats()}


def _limit(call: Call, default: int, high: int) -> int:
    limit = opt_int(call.parameters, "limit")
    if limit is None:
        return default
    if not 1 <= limit <= high:
        raise FormatError(f"$.limit must lie in 1..{high}", path="$.limit")
    return limit


class MemoryKernel(Kernel):
    """The daemon graced-memory."""

    name = "memory"
    options = (
        Option(
            section="memory", name="closed_incidents_kept", kind="int", default=10000, low=100, high=1_000_000,
            help="How many closed incidents are kept; open ones are never dropped.",
        ),
    )  # fmt: skip
    store: MemoryStore

    def setup(self) -> None:
        """Open the database and ask it something of every table."""
        path = f"{self.paths.state(self.name)}/memory.db"
        self.store = MemoryStore(path, self.clock, self.config["closed_incidents_kept"])
        self.store.self_test()

    def interfaces(self) -> list[Interface]:
        """io.graced.Memory."""
        return [MemoryInterface(self)]

    def reload(self, config: Config) -> None:
        """The retention counts from the next closed incident on."""
        self.store.closed_incidents_kept = config["closed_incidents_kept"]

    def status(self) -> str:
        """For example: 12 incidents (1 open), 40 documents, 380 chunks."""
        counts = self.store.counts()
        return (
            f"{counted(counts['incidents'], 'incident')} ({counts['open']} open), "
            f"{counted(counts['documents'], 'document')}, {counted(counts['chunks'], 'chunk')}"
        )

    def close(self) -> None:
        """Close the database."""
        self.store.close()


main = kernel_main(MemoryKernel)
