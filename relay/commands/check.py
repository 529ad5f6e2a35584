# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-relay check`."""

from __future__ import annotations

from typing import Final

import click

from shared.commands import command

OTHERS: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@click.command(cls=command.Command)
@command.json_option
def check(*, as_json: bool) -> None:
    """Show the configuration, and try everything it names.

    Each variable with its value (secrets hidden) and where it comes from; then NATS, the buckets and the SMTP server,
    one line each, with what to do about it. Nothing is sent and nothing is left behind. Ends with 1 if anything fails.

    \b
    Examples:
      lfx-email-relay check
      kubectl exec deploy/lfx-v2-email-relay -- lfx-email-relay check
      lfx-email-relay check --json | jq '.checks[] | select(.verdict != "ok")'
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    from relay.commands import check_plan  # noqa: PLC0415 - so that --help and completion do not wait for it
    from relay.settings import RelaySettings  # noqa: PLC0415
    from shared.commands.check import report as check_report  # noqa: PLC0415

    check_report.run("lfx-email-relay", RelaySettings, check_plan.plan, others=OTHERS, as_json=as_json)
