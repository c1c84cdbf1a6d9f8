"""A signer's key in a running daemon: refused when it is not the roster's, rotated without a stop, watched.

The daemon makes its own successor, signs the statement about it and hands both to the actuator; what counts is what the
roster says afterwards. What is being signed when a rotation begins is finished first, what comes meanwhile waits the
few milliseconds. A key that was revoked or replaced by root ends the daemon, which starts again with the new one.
Used by the three signers (ledger, Governance, Verification).
"""

from __future__ import annotations

import os

from graced.base.config import Option
from graced.base.errors import GracedError, TrustError, WireError
from graced.base.log import ERR, NOTICE, WARNING
from graced.base.messages import KEY_ROTATED, KEYS_REKEYED
from graced.runtime.loop import Future
from graced.trust.keys import HOLDERS, Signer, read_private, verify
from graced.trust.roster import FILE_NAME, RosterFile, owners_here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from graced.base.json import JsonDict
    from graced.runtime.kernel import Kernel
    from graced.trust.roster import Roster, RosterKey

DEVELOPMENT = "development-file"
VALIDITY_SECONDS = 90 * 86400
LOOK_SECONDS = 10.0
FIRST_LOOK_SECONDS = 1.0
RETRY_SECONDS = 3600.0
FREE_SECONDS = 30.0
ACTUATOR_SECONDS = 10.0
_SELF_TEST = b"graced-self-test-v1\n"


def validity_option(section: str) -> Option:
    """How long a key of this daemon counts; it is rotated 7 days before its end."""
    return Option(
        section,
        "key_validity",
        "duration_s",
        VALIDITY_SECONDS,
        "How long a signing key is valid; it is rotated by itself 7 days before its end",
        low=14 * 86400,
        high=400 * 86400,
    )


class SigningKey:
    """The key of one signer. Stands in for a `Signer`: `kid`, `public`, `sign`."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        """Load the key, prove that it signs, and that it is the roster's current one. Raises TrustError."""
        self._kernel = kernel
        self.name = name
        self.signer = Signer.load(signer=name, state_directory=kernel.paths.state(HOLDERS[name]))
        proof = self.signer.sign(_SELF_TEST, name.encode())
        if not verify(self.signer.public, _SELF_TEST, name.encode(), proof):
            raise TrustError("the signing key does not verify what it signs", code="self-test")
        self._file = RosterFile(f"{kernel.paths.lib}/{FILE_NAME}", owners_here())
        self._next: Signer | None = None
        self._rotating: Future | None = None
        self._using = 0
        self._free: Future | None = None
        self._retry_at_s = 0.0
        self._complaint = ""
        self.on_look: Callable[[], None] | None = None
        self.check()

    @property
    def kid(self) -> str:
        """The present key's name."""
        return self.signer.kid

    @property
    def public(self) -> bytes:
        """The present key's public part."""
        return self.signer.public

    @property
    def source(self) -> str:
        """Where the key came from: "credentials" or "development-file"."""
        return self.signer.source

    def sign(self, context: bytes, payload: bytes) -> bytes:
        """As `Signer.sign`, with the roster's current key or not at all. Raises TrustError."""
        self.check()
        return self.signer.sign(context, payload)

    def roster(self) -> Roster:
        """The roster as it is now. Raises TrustError."""
        return self._file.get()

    def check(self) -> RosterKey | None:
        """The roster's line of this key, after taking over a successor that counts now; None in development.

        Raises TrustError: "not-current" (revoked, replaced, or an old blob was put back), "roster".
        """
        if self.source == DEVELOPMENT and not os.path.lexists(self._file.path):
            return None
        current = self._file.get().current(self.name)
        if self._next is not None and current.kid == self._next.kid:
            self.signer, self._next = self._next, None
        if current.kid != self.signer.kid:
            raise TrustError(
                f"this key of {self.name} is {self.signer.kid}, the roster's current one is {current.kid}",
                hint="run /usr/lib/graced/graced-keys as root, then restart the unit",
                code="not-current",
            )
        return current

    # Watching ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """From READY on: notice a changed roster, rotate in time."""
        self._kernel.loop.call_later(FIRST_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._kernel.loop.call_later(LOOK_SECONDS, self._look)
        if self._rotating is not None:
            return
        try:
            key = self.check()
            if self.on_look is not None:
                self.on_look()
        except GracedError as error:
            if error.code == "not-current":
                self._kernel.log(WARNING, f"{error.message}: starting again with that one", KEYS_REKEYED)
                self._kernel.leave()
            elif self._complaint != error.message:
                self._complaint = error.message
                self._kernel.log(ERR, f"{self.name} signs nothing: {error}")
            return
        self._complaint = ""
        if self._is_due(key, ahead_s=None) and self._kernel.loop.now_s() >= self._retry_at_s:
            self._kernel.loop.spawn(self._renew())

    def _is_due(self, key: RosterKey | None, ahead_s: int | None) -> bool:
        from graced.trust.rotation import RENEW_SECONDS, is_due

        if key is None or self.source == DEVELOPMENT:
            return False
        return is_due(key, self._kernel.clock.wall_us(), RENEW_SECONDS if ahead_s is None else ahead_s)

    async def _renew(self) -> None:
        """Rotate by itself; a failure is said and tried again in an hour. Signing goes on either way."""
        self._retry_at_s = self._kernel.loop.now_s() + RETRY_SECONDS
        try:
            await self.rotate(HOLDERS[self.name], os.getuid(), "its validity ends within 7 days")
        except GracedError as error:
            self._kernel.log(WARNING, f"the key of {self.name} could not be rotated, next try in an hour: {error}")

    # Using and changing ------------------------------------------------------------------------------------

    async def during(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run work that signs, so that no rotation comes between its signature and its entry in the ledger."""
        try:
            while self._rotating is not None:
                await self._rotating
            if self._kernel.loop.now_s() >= self._retry_at_s and self._is_due(self.check(), ahead_s=0):
                await self._renew()
        except TrustError:
            # What signs says it again, and to the right one.
            self._retry_at_s = self._kernel.loop.now_s() + RETRY_SECONDS
        self._using += 1
        try:
            return await work
        finally:
            self._using -= 1
            if not self._using and self._free is not None:
                self._free.set_result()

    async def rotate(self, by: str, by_uid: int, reason: str) -> JsonDict:
        """Change the key; `by` and `by_uid` are who asked. The reply's facts. Raises GracedError: nothing changed."""
        if self.source == DEVELOPMENT:
            raise TrustError("a development key is not rotated: remove its file and make another", code="development")
        if self._rotating is not None or self._free is not None:
            raise TrustError(f"a rotation of {self.name}'s key is under way", code="busy")
        await self._free_moment()
        self._rotating = Future()
        old = self.kid
        try:
            await self._rotate(by, by_uid, reason)
        finally:
            rotating, self._rotating, self._next = self._rotating, None, None
            rotating.set_result()
        key = self.roster().current(self.name)
        self._kernel.log(
            NOTICE,
            f"{self.name} signs with {key.kid} now, valid until {key.not_after}; {old} is retired",
            KEY_ROTATED,
            GRACED_KID=key.kid,
            GRACED_OLD_KID=old,
            GRACED_UID=by_uid,
        )
        return {"old_kid": old, "kid": key.kid, "not_after": key.not_after}

    async def _free_moment(self) -> None:
        """Until nothing is between signature and ledger; after 30 s of work without a gap new work waits."""
        if not self._using:
            return
        self._free = Future()
        timer = self._kernel.loop.call_later(FREE_SECONDS, self._free.set_result)
        try:
            await self._free
        finally:
            timer.cancel()
            self._free = None

    async def _rotate(self, by: str, by_uid: int, reason: str) -> None:
        from graced.trust.rotation import make_rotation

        self.check()
        old = self.signer
        seal = read_private(f"{os.environ.get('CREDENTIALS_DIRECTORY', '')}/seal", "the credential 'seal'")
        wall_us, validity_s = self._kernel.clock.wall_us(), self._kernel.config["key_validity"]
        rotation, self._next = make_rotation(old, seal, wall_us, validity_s, by, by_uid, reason)
        try:
            await self._ask(rotation.to_json())
        except WireError:
            # It may have died before or after the roster was replaced; a new one finishes that, and the same
            # statement asked again is answered or refused.
            await self._ask(rotation.to_json())
        self.check()
        if self.signer is old:
            raise TrustError("the actuator answered, but the roster does not have the new key", code="roster")

    async def _ask(self, parameters: JsonDict) -> None:
        await self._kernel.call("io.graced.Actuator.RotateKey", parameters, ACTUATOR_SECONDS)
