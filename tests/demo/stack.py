# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The processes of the demo: three servers, and both services as console scripts with environment variables."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.demo import mails
from tests.stack import console, nats_server, smtp_server, sqs_endpoint
from tests.stack.certificates import Certificates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.stack.console import Console
    from tests.stack.nats_server import NatsServer
    from tests.stack.smtp_server import SmtpServer
    from tests.stack.sqs_endpoint import SqsEndpoint

RELAY, TRACKER = "lfx-email-relay", "lfx-email-tracker"
SERVE = ("serve", "--create-missing")
USERNAME = "demo-user"
PASSWORD = "demo-password"  # noqa: S105 - of a server that lives for seconds
CONFIGURATION_SET = "lfx-engagement"


class Stack(NamedTuple):
    """The running processes; `home` is a temporary directory."""

    home: Path
    nats: NatsServer
    smtp: SmtpServer
    sqs: SqsEndpoint
    relay: Console
    tracker: Console

    async def wait_until_ready(self) -> None:
        """Return when both services answer requests."""
        await asyncio.gather(self.relay.wait_until_ready(), self.tracker.wait_until_ready())

    async def stop_services(self) -> tuple[int, int]:
        """Send SIGTERM to both services; return their exit codes."""
        self.relay.terminate()
        self.tracker.terminate()
        return await self.relay.wait(), await self.tracker.wait()


@asynccontextmanager
async def running() -> AsyncIterator[Stack]:
    """Run everything, without waiting until the services are ready."""
    with tempfile.TemporaryDirectory(prefix="lfx-email-demo-") as directory:
        home = Path(directory)
        certificates = Certificates(home)
        tls = certificates.server_context()
        async with (
            nats_server.running() as nats,
            smtp_server.running(tls=tls, username=USERNAME, password=PASSWORD, require_starttls=True) as smtp,
            sqs_endpoint.running() as sqs,
            console.running(RELAY, *SERVE, env=_relay_environment(nats, smtp, certificates)) as relay,
            console.running(TRACKER, *SERVE, env=_tracker_environment(nats, sqs)) as tracker,
        ):
            smtp.refuse(mails.UNKNOWN, mails.REFUSAL)
            yield Stack(home, nats, smtp, sqs, relay, tracker)


def _common(nats: NatsServer) -> dict[str, str]:
    # A terminal's Ctrl-C reaches every process at once, also nats-server: limit the wait of services that still write.
    return {"NATS_URL": nats.url, "SHUTDOWN_TIMEOUT_SECONDS": "3"}


def _relay_environment(nats: NatsServer, smtp: SmtpServer, certificates: Certificates) -> dict[str, str]:
    return {
        **_common(nats),
        "EMAIL_ENABLED": "true",
        "SMTP_HOST": "localhost",
        "SMTP_PORT": str(smtp.port),
        "SMTP_USERNAME": USERNAME,
        "SMTP_PASSWORD": PASSWORD,
        "SES_CONFIGURATION_SET": CONFIGURATION_SET,
        "SSL_CERT_FILE": str(certificates.ca_file),
    }


def _tracker_environment(nats: NatsServer, sqs: SqsEndpoint) -> dict[str, str]:
    return {
        **_common(nats),
        "SES_EVENTING_ENABLED": "true",
        "SES_ENGAGEMENT_SQS_QUEUE_URL": sqs.queue_url,
        "AWS_REGION": "us-west-2",
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
    }
