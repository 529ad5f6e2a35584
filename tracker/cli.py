# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command line `lfx-email-tracker`."""

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
    "analytics": (
        "tracker.commands.analytics:analytics",
        "Count the emails of a group: sent, delivered, opened, failed.",
    ),
    "check": ("tracker.commands.check:check", "Show the configuration, and try every server that it names."),
    "erase": ("tracker.commands.erase:erase", "Erase the personal data in all emails to an address."),
    "replay": (
        "tracker.commands.replay.command:replay",
        "Apply saved SQS messages, such as those of a DLQ.",
    ),
    "retention": (
        "tracker.commands.retention.command:retention",
        "Remove old emails; the counts of their groups stay.",
    ),
    "status": (
        "tracker.commands.status:status",
        "Show an email, the emails of a group, or those to an address.",
    ),
    "suppressions": (
        "tracker.commands.suppressions.command:suppressions",
        "Manage the suppression list: addresses that get no mail.",
    ),
    "watch": ("tracker.commands.watch:watch", "Show push events as they are published, until Ctrl-C."),
}
"""Each command that is imported when it is called: where it is, and the first sentence of its help."""


@click.group(cls=group.Group, commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Track the platform's email: applies SES events from SQS to the records in NATS KV and answers queries."""


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
    from shared import lifecycle  # noqa: PLC0415 - --help needs none of these four
    from shared.service import settings  # noqa: PLC0415
    from tracker import process  # noqa: PLC0415
    from tracker.settings import TrackerSettings  # noqa: PLC0415

    try:
        config = settings.load(os.environ, TrackerSettings)
        served = process.prepare(config, os.environ, create_missing=create_missing)
    except settings.SettingsError as error:
        sys.exit(lifecycle.refuse(error))
    sys.exit(lifecycle.run(process.NAME, config, served, os.environ))
