# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command line `lfx-email-relay`."""

from __future__ import annotations

from shared.service import signals

signals.exit_at_once()  # before the slow imports

import os  # noqa: E402
import sys  # noqa: E402
from typing import Final  # noqa: E402

import click  # noqa: E402

from shared import __version__  # noqa: E402
from shared.commands import group  # noqa: E402

COMMANDS: Final = {
    "check": ("relay.commands.check:check", "Show the configuration, and try every server that it names."),
    "send": ("relay.commands.send:send", "Send one email, or one for each row of a CSV file."),
}
"""Each command that is imported when it is called: where it is, and the first sentence of its help."""


@click.group(cls=group.Group, commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Send the platform's email: answers lfx.email-service.send_email, delivers over SMTP, records in NATS KV."""


@main.command()
@click.option(
    "--create-missing",
    "--create-buckets",  # its name before there was a stream
    "create_missing",
    is_flag=True,
    help="Create the KV buckets and the stream of push events that are missing (for a local NATS server).",
)
def serve(*, create_missing: bool) -> None:
    """Serve in the foreground until SIGTERM or Ctrl-C. Configured by environment variables."""
    from relay import process  # noqa: PLC0415 - --help needs none of these four
    from relay.settings import RelaySettings  # noqa: PLC0415
    from shared import lifecycle  # noqa: PLC0415
    from shared.service import settings  # noqa: PLC0415

    try:
        config = settings.load(os.environ, RelaySettings)
        served = process.prepare(config, create_missing=create_missing)
    except settings.SettingsError as error:
        sys.exit(lifecycle.refuse(error))
    sys.exit(lifecycle.run(process.NAME, config, served, os.environ))
