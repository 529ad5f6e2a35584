# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The certificate authority of the stack and the certificates of its servers."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

WRONG_HOST = "wrong-host.invalid"


class Certificates:
    """Files in a directory: `ca_file` for clients (SSL_CERT_FILE), cert and key files and contexts for servers."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.ca_file = directory / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.cert_file, self.key_file = _issue(authority, directory, "server", ("localhost", "127.0.0.1"))
        self.wrong_host_cert_file, self.wrong_host_key_file = _issue(authority, directory, "wrong-host", (WRONG_HOST,))
        self._unknown = _issue(trustme.CA(), directory, "unknown-ca", ("localhost", "127.0.0.1"))
        self._authority, self._directory = authority, directory

    def server_context(self) -> ssl.SSLContext:
        """Return a context for a server with a valid certificate for localhost and 127.0.0.1."""
        return _server_context(self.cert_file, self.key_file)

    def wrong_host_context(self) -> ssl.SSLContext:
        """Return a context for a server with a certificate for another host."""
        return _server_context(self.wrong_host_cert_file, self.wrong_host_key_file)

    def unknown_ca_context(self) -> ssl.SSLContext:
        """Return a context for a server with a certificate of an unknown authority."""
        return _server_context(*self._unknown)

    def context_valid_for(self, time_left: timedelta) -> ssl.SSLContext:
        """Return a context for a server whose certificate expires after this time; a negative one has expired."""
        until = datetime.now(UTC) + time_left
        hosts = ("localhost", "127.0.0.1")
        return _server_context(*_issue(self._authority, self._directory, f"until-{until:%s}", hosts, until))

    def client_context(self) -> ssl.SSLContext:
        """Return a context for a client that trusts only this authority."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def nats_tls(self, more: str = "") -> str:
        """Return the tls block of a nats-server's configuration, perhaps with more options."""
        return f'tls {{ cert_file: "{self.cert_file}", key_file: "{self.key_file}"{more} }}'


def _issue(
    authority: trustme.CA, directory: Path, name: str, hosts: tuple[str, ...], until: datetime | None = None
) -> tuple[Path, Path]:
    issued = authority.issue_cert(*hosts, not_after=until)
    cert, key = directory / f"{name}.pem", directory / f"{name}-key.pem"
    issued.private_key_pem.write_to_path(str(key))
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return cert, key


def _server_context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context
