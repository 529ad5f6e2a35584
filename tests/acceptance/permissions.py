# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The NATS users as docs/security.md lists them, and a server with these users and an admin."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import nats

from shared import contract
from tests.stack import nats_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from nats.aio.client import Client

    from tests.stack.nats_server import NatsServer

PAGE: Final = Path(__file__).parents[2] / "docs" / "security.md"
ADMIN: Final = "admin"
CALLER, RELAY, TRACKER, CONSUMER = NAMES = "caller", "relay", "tracker", "consumer"
RETENTION: Final = "retention"
_LISTS: Final = re.compile(r"(publish|subscribe): \[(.*?)\]", re.DOTALL)


class User(NamedTuple):
    """A user and its permitted subjects; a queue group follows its subject after a blank."""

    entry: str

    @property
    def name(self) -> str:
        """The name on the page."""
        return _found(r"user: (\S+)", self.entry)

    @property
    def variable(self) -> str:
        """The variable with its password."""
        return _found(r"password: \$(\w+)", self.entry)

    @property
    def publish(self) -> list[str]:
        """The subjects that it may publish to."""
        return self._subjects("publish")

    @property
    def subscribe(self) -> list[str]:
        """The subjects that it may subscribe to."""
        return self._subjects("subscribe")

    def without_options(self) -> User:
        """Return the user without the permissions of the features that the page names in comments."""
        return User(_LISTS.sub(lambda found: f"{found[1]}: [{found[2].partition('#')[0]}]", self.entry))

    def with_more(self, *publish: str) -> User:
        """Return the user with permission to publish to more subjects."""
        return User(self.entry.replace("publish: [", "publish: [\n" + "\n".join(f'"{one}"' for one in publish)))

    def _subjects(self, which: str) -> list[str]:
        lists = {name: re.findall(r'"([^"]+)"', text) for name, text in _LISTS.findall(self.entry)}
        return lists[which]


def users() -> dict[str, User]:
    """Return the users of the page."""
    entries = map(User, re.findall(r"^```nats\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    return {user.name: user for user in entries}


def to_create_missing() -> list[str]:
    """Return the further subjects that the page lists for a process that creates the buckets and the stream."""
    templates = re.findall(r"`(\$JS[^`]*)<bucket>`", PAGE.read_text())
    of_stream = re.findall(rf"`(\$JS\.API\.STREAM\.\w+\.{contract.PUSH_EVENTS_STREAM})`", PAGE.read_text())
    return [*of_stream, *(template + bucket for template in templates for bucket in contract.BUCKETS)]


def covers(pattern: str, subject: str) -> bool:
    """Return whether `pattern` matches each subject that `subject` matches."""
    outer, inner = pattern.split("."), subject.split(".")
    if outer[-1] == ">":
        outer = outer[:-1]
        return len(inner) > len(outer) and all(map(_token_covers, outer, inner))
    return len(inner) == len(outer) and all(map(_token_covers, outer, inner))


def _token_covers(outer: str, inner: str) -> bool:
    return outer == inner or (outer == "*" and inner != ">")


def url(at: str, user: str) -> str:
    """Put a user into one or more URLs; the password of each user is its name."""
    return at.replace("//", f"//{user}:{user}@")


def variables(at: str, user: str) -> dict[str, str]:
    """Return the variables of a process that connects as this user; a server without users accepts any."""
    return {"NATS_URL": url(at, user), "NATS_INBOX_PREFIX": f"_INBOX.{user}"}


@asynccontextmanager
async def server(known: Iterable[User]) -> AsyncIterator[NatsServer]:
    """Run a server with these users; a client without a user is the admin."""
    entries = list(known)
    passwords = "".join(f"{user.variable}: {user.name}\n" for user in entries)
    their_entries = "".join(user.entry for user in entries)
    users = f"authorization {{ users: [ {{ user: {ADMIN}, password: {ADMIN} }}\n{their_entries}] }}"
    async with nats_server.running(f"{passwords}{users}\nno_auth_user: {ADMIN}") as running:
        yield running


@asynccontextmanager
async def connected(at: str, user: str, errors: list[str] | None = None) -> AsyncIterator[Client]:
    """Connect as a user, with its own inbox; add the errors of the server to `errors`."""

    async def collect(error: Exception) -> None:
        if errors is not None:
            errors.append(str(error))

    client = await nats.connect(
        url(at, user), inbox_prefix=f"_INBOX.{user}", error_cb=collect, allow_reconnect=False, max_reconnect_attempts=0
    )
    try:
        yield client
    finally:
        await client.close()


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found, pattern
    return found[1]
