# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: corrects the environment variables that boto3 reads itself, before it does.

To boto3 and OpenSSL an empty variable is a value: `AWS_PROFILE=` is a profile that is missing, and an empty
`REQUESTS_CA_BUNDLE` turns the check of certificates off. A line end in a credential is an error that quotes it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

CREDENTIALS: Final = frozenset(
    {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"}
)
OTHERS: Final = frozenset({"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"})

_NOT_OF_CREDENTIALS = re.compile(r"[^!-~]+")


def correct(environ: MutableMapping[str, str]) -> None:
    """Trim the variables of AWS, of proxies and of certificates, and remove those that are empty."""
    for name, value in list(environ.items()):
        if not (name.startswith("AWS_") or name.upper().endswith("_PROXY") or name in OTHERS):
            continue
        trimmed = _NOT_OF_CREDENTIALS.sub("", value) if name in CREDENTIALS else value.strip()
        if not trimmed:
            del environ[name]
        elif trimmed != value:
            environ[name] = trimmed
