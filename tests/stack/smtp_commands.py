# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The replies of a correct SMTP server and the state of a session (RFC 5321, 3207, 4954). No sockets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tests.stack.received_mail import ReceivedMail

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.stack.scripted_smtp import Options
    from tests.stack.smtp_scripts import Stage

_PATH = re.compile(r"(?:FROM|TO):\s*<([^>]*)>", re.IGNORECASE)


class Step(NamedTuple):
    """The correct reply, and the change of the state if the reply is positive."""

    stage: Stage
    reply: str
    effect: Callable[[], None] | None = None


class Session:
    """The state of one session."""

    def __init__(self, options: Options, peer: tuple[str, int], *, encrypted: bool) -> None:
        self.accepted = 0
        self.encrypted = encrypted
        self._options = options
        self._peer = peer
        self._greeted = False
        self._user: str | None = None
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._commands = {
            "EHLO": self._ehlo,
            "HELO": self._helo,
            "STARTTLS": self._starttls,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": self._noop,
            "QUIT": self._quit,
        }

    @property
    def is_idle(self) -> bool:
        """Whether the client has sent EHLO and no transaction is open."""
        return self._greeted and self._sender is None

    def step(self, line: str) -> Step:
        """Return the reply to any command except AUTH."""
        verb, _, argument = line.partition(" ")
        command = self._commands.get(verb.upper())
        return command(argument) if command else Step("unknown", "500 5.5.1 Command not recognized")

    def authenticate(self, user: str, password: str) -> Step:
        """Return the reply to AUTH after its challenges."""
        if (user, password) != (self._options.username, self._options.password):
            return Step("auth", "535 5.7.8 Authentication Credentials Invalid")
        return Step("auth", "235 2.7.0 Authentication successful", lambda: self._log_in(user))

    def mail(self, content: bytes) -> ReceivedMail:
        """Return the mail of the transaction."""
        return ReceivedMail(
            mail_from=self._sender or "",
            recipients=tuple(self._recipients),
            content=content,
            tls=self.encrypted,
            authenticated_as=self._user,
            peer=self._peer,
        )

    def forget_transaction(self) -> None:
        """Reset the transaction: the next command is MAIL."""
        self._sender = None
        self._recipients = []

    def _ehlo(self, _argument: str) -> Step:
        keywords = list(self._options.advertise)
        if self._options.tls and not self.encrypted:
            keywords.append("STARTTLS")
        elif self._options.username:
            keywords.append("AUTH PLAIN LOGIN")
        *lines, last = ["localhost", *keywords]
        return Step("ehlo", "\n".join([*(f"250-{line}" for line in lines), f"250 {last}"]), self._greet)

    def _helo(self, _argument: str) -> Step:
        return Step("ehlo", "250 localhost", self._greet)

    def _starttls(self, _argument: str) -> Step:
        if self._options.tls is None or self.encrypted:
            return Step("unknown", "503 5.5.1 STARTTLS not offered")
        return Step("starttls", "220 2.0.0 Ready to start TLS", self._encrypt)

    def _mail(self, argument: str) -> Step:
        path = _PATH.match(argument)
        if path is None:
            return Step("mail", "501 5.5.4 Syntax: MAIL FROM:<address>")
        if self._options.username and not self._user:
            return Step("mail", "530 5.7.0 Authentication required")
        if not self._greeted or self._sender is not None:
            return Step("mail", "503 5.5.1 Bad sequence of commands")
        return Step("mail", "250 2.1.0 Ok", lambda: self._begin(path[1]))

    def _rcpt(self, argument: str) -> Step:
        path = _PATH.match(argument)
        if path is None:
            return Step("rcpt", "501 5.5.4 Syntax: RCPT TO:<address>")
        if self._sender is None:
            return Step("rcpt", "503 5.5.1 Bad sequence of commands")
        return Step("rcpt", "250 2.1.5 Ok", lambda: self._recipients.append(path[1]))

    def _data(self, _argument: str) -> Step:
        if not self._recipients:
            return Step("data", "503 5.5.1 Bad sequence of commands")
        return Step("data", "354 End data with <CR><LF>.<CR><LF>")

    def _rset(self, _argument: str) -> Step:
        return Step("rset", "250 2.0.0 Ok", self.forget_transaction)

    def _noop(self, _argument: str) -> Step:
        return Step("noop", "250 2.0.0 Ok")

    def _quit(self, _argument: str) -> Step:
        return Step("quit", "221 2.0.0 Bye")

    def _greet(self) -> None:
        self._greeted = True
        self.forget_transaction()

    def _encrypt(self) -> None:
        # RFC 3207, 4.2: the server forgets everything before STARTTLS.
        self._greeted = False
        self.encrypted = True
        self.forget_transaction()

    def _log_in(self, user: str) -> None:
        self._user = user

    def _begin(self, sender: str) -> None:
        self._sender = sender
