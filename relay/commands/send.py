# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-relay send`: its options, and what it tells of one email."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shared.commands import command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.contract import SendEmailResponse

NAME: Final = "lfx-email-relay send"
TIMEOUT_SECONDS: Final = 45.0  # longer than the relay takes for any request with its default settings
FIELDS: Final = (
    click.Option(["--to"], metavar="MAILBOX", help="The recipient: ada@example.com or 'Ada <ada@example.com>'."),
    click.Option(["--subject"], metavar="TEXT", help="The subject."),
    click.Option(["--group-id"], metavar="ID", help="The group. With --csv and without this: one new group."),
    click.Option(["--from"], metavar="MAILBOX", help="The sender, in an allowed domain."),
    click.Option(["--from-display-name"], metavar="NAME", help="The sender's name, where --from has none."),
    click.Option(["--reply-to"], metavar="MAILBOX", help="Where answers go, in an allowed domain."),
    click.Option(["--unsubscribe-url"], metavar="URL", help="Where one click unsubscribes (RFC 8058)."),
    click.Option(["--idempotency-key"], metavar="KEY", help="One key sends one mail, however often it is asked for."),
)
"""Each is the field of a request by the same name."""
BODIES: Final = (
    click.Option(
        ["--html"], type=click.File(encoding="utf-8", lazy=True), required=True, help="The HTML body; - for stdin."
    ),
    click.Option(
        ["--text"], type=click.File(encoding="utf-8", lazy=True), required=True, help="The plain text; - for stdin."
    ),
)


def _tags(_: object, __: object, given: Sequence[str]) -> dict[str, str]:
    tags = dict(one.partition("=")[::2] for one in given)
    if len(tags) < len(given) or not all(tags.values()):
        raise click.BadParameter("each is NAME=VALUE, and no name is there twice.")
    return tags


TAG: Final = click.Option(
    ["--tag", "tags"],
    metavar="NAME=VALUE",
    multiple=True,
    callback=_tags,
    help="A tag that SES reports with each event; may be given up to 10 times.",
)
MANY: Final = (
    click.Option(
        ["--csv", "csv_file"],
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Send one email to each row of this file.",
    ),
    click.Option(
        ["--result"],
        type=click.Path(dir_okay=False, path_type=Path),
        help="Where the outcome of each row is written; the CSV file's name with .result.csv, unless given.",
    ),
    click.Option(
        ["--concurrency"], type=click.IntRange(1, 256), default=8, show_default=True, help="Emails under way at once."
    ),
    click.Option(["--retry-refused"], is_flag=True, help="Ask again for rows that were refused."),
    click.Option(["--retry-unknown"], is_flag=True, help="Ask again for rows that failed or had no answer."),
)
TIMEOUT: Final = click.Option(
    ["--timeout"],
    type=command.Seconds(min=0, min_open=True),
    default=TIMEOUT_SECONDS,
    show_default=True,
    help="Seconds to wait for an answer.",
)


@click.command(cls=command.Command, params=[*FIELDS, TAG, *BODIES, *MANY, TIMEOUT])
@command.json_option
def send(csv_file: Path | None, tags: Mapping[str, str], **options: Any) -> None:
    """Send one email, or one for each row of a CSV file.

    Asks over NATS as any caller does, and prints the ids.

    With --csv, a column that is called like a field (to, subject, group_id, from, from_display_name, reply_to,
    unsubscribe_url, idempotency_key) takes the place of the option. Every column fills {column} in the subject, the
    bodies (escaped in HTML), the URL (percent-encoded), the key and the tags. All rows are checked before the first is
    sent. The result file has what became of each row; after an interruption the same command goes on with the rest.

    \b
    Examples:
      lfx-email-relay send --to ada@example.com --subject Hello --html mail.html --text mail.txt
      lfx-email-relay send --csv people.csv --subject 'Hello {name}' --html mail.html --text mail.txt
      lfx-email-relay send --csv people.csv ... --idempotency-key 'welcome-2026-{to}' --tag campaign=welcome
      lfx-email-relay send --csv people.csv ... --retry-refused
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    given = {one.name: said for one in FIELDS if one.name and (said := options.pop(one.name))}
    given |= {one.name: _read(one.name, options.pop(one.name)) for one in BODIES if one.name}
    if csv_file:
        from relay.commands.mailing import run as mailing_run  # noqa: PLC0415 - so that --help and completion do not wait for it

        mailing_run.run(csv_file, given, tags, mailing_run.Options(**options))
    else:
        _send_one({**given, "tags": tags or None}, timeout=options["timeout"], as_json=options["as_json"])


def _read(name: Any, file: Any) -> str:
    if file.name == "-" and sys.stdin is None:
        raise click.UsageError(f"--{name}: standard input is closed")
    try:
        body: str = file.read()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"--{name} is not UTF-8: {error}") from error
    if not body:
        raise click.UsageError(f"--{name} is empty. Standard input can be only one of --html and --text.")
    return body


def _send_one(request: Mapping[str, Any], *, timeout: float, as_json: bool) -> None:
    import msgspec  # noqa: PLC0415 - as above

    from shared import contract  # noqa: PLC0415

    if not (request.get("to") and request.get("subject")):
        raise click.UsageError("--to and --subject are needed, or --csv.")

    async def work() -> contract.SendEmailResponse:
        async with command.connected(NAME) as caller:
            email = msgspec.convert(request, contract.SendEmailRequest)
            return await caller.ask(contract.SEND_EMAIL_SUBJECT, email, contract.SendEmailResponse, timeout=timeout)

    sent = command.run(work())
    _tell(sent, as_json=as_json)
    if not sent.email_id:
        raise command.Failed("not sent: the recipient is outside SMTP_ALLOWED_RECIPIENT_DOMAINS")


def _tell(sent: SendEmailResponse, *, as_json: bool) -> None:
    """Print the ids, or else tell them to people: whether or not they can be printed, the mail is out."""
    try:
        if as_json:
            command.print_json(sent)
        elif sent.email_id:
            command.print_table([("email_id", sent.email_id), ("group_id", sent.group_id)])
    except BrokenPipeError:
        raise
    except OSError:
        command.say(f"The relay has answered: email_id {sent.email_id}, group_id {sent.group_id}")
        raise
