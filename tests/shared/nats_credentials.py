# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Makes the files that `nsc` makes: the JWTs of an operator, an account and a user, and a credentials file."""

from __future__ import annotations

import base64
import json
import os
import time

import nkeys
from nacl.signing import SigningKey

_UNLIMITED = {"subs": -1, "data": -1, "payload": -1}
_ACCOUNT = {**_UNLIMITED, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
_FILE = """-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""


class Credentials:
    """The operator part of a server's configuration, and credentials files of its users."""

    def __init__(self) -> None:
        operator, system = _Key(nkeys.PREFIX_BYTE_OPERATOR), _Key(nkeys.PREFIX_BYTE_ACCOUNT)
        self._account = _Key(nkeys.PREFIX_BYTE_ACCOUNT)
        accounts = ", ".join(
            f"{one.name}: {_jwt(operator, one, 'account', limits=_ACCOUNT)}" for one in (self._account, system)
        )
        self.server_config = (
            f"operator: {_jwt(operator, operator, 'operator', system_account=system.name)}\n"
            f"resolver: MEMORY\nresolver_preload: {{ {accounts} }}\n"
        )

    def user(self, valid_seconds: int = 3600) -> str:
        """Return the credentials file of a new user."""
        user = _Key(nkeys.PREFIX_BYTE_USER)
        return _FILE.format(jwt=_jwt(self._account, user, "user", valid_seconds, **_UNLIMITED), seed=user.seed)


class _Key:
    """An Ed25519 pair under its NATS name."""

    def __init__(self, prefix: int) -> None:
        seed = nkeys.encode_seed(bytes(SigningKey.generate()), prefix)
        self.seed = seed.decode()
        self.pair = nkeys.from_seed(seed)
        self.name: str = self.pair.public_key.decode()


def _jwt(issuer: _Key, subject: _Key, kind: str, valid_seconds: int = 3600, **nats: object) -> str:
    now = int(time.time())
    claims = {
        "jti": _base64(os.urandom(20)),
        "iat": now,
        "exp": now + valid_seconds,
        "iss": issuer.name,
        "name": kind,
        "sub": subject.name,
        "nats": {"type": kind, "version": 2, **nats},
    }
    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    text = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
    return f"{text}.{_base64(issuer.pair.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
