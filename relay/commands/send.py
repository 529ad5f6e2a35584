# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-relay send`: its options, and how it sends one email."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from click.core import ParameterSource

from relay.commands import text_file
from relay.commands.mailing import csv_rows, preview, rows, run
from shared import contract
from shared.commands import command, output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TIMEOUT_SECONDS: Final = 45.0  # longer than any request takes with the relay's default settings
FIELDS: Final = (
    click.Option(["--to"], metavar="MAILBOX", help="The recipient: ada@example.com or 'Ada <ada@example.com>'."),
    click.Option(["--subject"], metavar="TEXT", help="The subject."),
    click.Option(["--group-id"], metavar="ID", help="The group. Default with --csv: one new group."),
    click.Option(["--from"], metavar="MAILBOX", help="The sender, in an allowed domain."),
    click.Option(["--from-display-name"], metavar="NAME", help="The sender's name, if --from has none."),
    click.Option(["--reply-to"], metavar="MAILBOX", help="The address for answers, in an allowed domain."),
    click.Option(["--unsubscribe-url"], metavar="URL", help="The URL for one-click unsubscribe (RFC 8058)."),
    click.Option(["--idempotency-key"], metavar="KEY", help="Requests with the same key send one email."),
)
"""Each is the request field of the same name."""


class BodyFile(click.File):
    """The name of a file, or `-` for standard input. It is opened when it is read."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse a standard input that is closed: click ends with a traceback."""
        if value == "-" and sys.stdin is None:
            self.fail("standard input is closed", param, ctx)
        return super().convert(value, param, ctx)


BODIES: Final = (
    click.Option(["--html"], type=BodyFile("rb", lazy=True), required=True, help="The HTML body; - for stdin."),
    click.Option(["--text"], type=BodyFile("rb", lazy=True), required=True, help="The plain text; - for stdin."),
)


def _tags(_: object, __: object, given: Sequence[str]) -> dict[str, str]:
    tags = dict(text_file.without_marks(one).partition("=")[::2] for one in given)
    if len(tags) < len(given) or not all(tags.values()):
        raise click.BadParameter("each tag must be NAME=VALUE, with a different NAME.")
    return tags


def _delimiter(_: object, __: object, given: str) -> str:
    character = csv_rows.DELIMITERS.get(given.lower(), "\t" if given == "\\t" else given)
    if len(character) > 1 or character in set('"\r\n'):
        raise click.BadParameter("give one character, or one of comma, semicolon, tab, pipe.")
    return character


TAG: Final = click.Option(
    ["--tag", "tags"],
    metavar="NAME=VALUE",
    multiple=True,
    callback=_tags,
    help="A tag that SES reports with each event; up to 10 times.",
)
MAILING: Final = (
    click.Option(
        ["--csv", "csv_file"],
        type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
        help="Send one email for each row of this file; - for stdin.",
    ),
    click.Option(
        ["--delimiter"],
        metavar="CHARACTER",
        default="",
        callback=_delimiter,
        help="What separates the cells: , ; | or tab. Default: found in the header.",
    ),
    click.Option(["--dry-run"], is_flag=True, help="Check everything, show the first email, and send nothing."),
    click.Option(
        ["--result"],
        type=click.Path(dir_okay=False, path_type=Path),
        help="The file for the outcome of each row. Default: the name of the CSV file with .result.csv.",
    ),
    click.Option(
        ["--concurrency"],
        type=click.IntRange(1, 256),
        default=8,
        show_default=True,
        help="Requests sent at the same time.",
    ),
    click.Option(["--retry-refused"], is_flag=True, help="Send rows again that were refused."),
    click.Option(["--retry-unknown"], is_flag=True, help="Send rows again that failed or have no answer."),
)
TIMEOUT: Final = click.Option(
    ["--timeout"],
    type=command.Seconds(min=0, min_open=True),
    default=TIMEOUT_SECONDS,
    show_default=True,
    help="Seconds to wait for an answer.",
)


ONLY_WITH_CSV: Final = ("delimiter", "result", "concurrency", "retry_refused", "retry_unknown")


@click.command(cls=command.Command, params=[*FIELDS, TAG, *BODIES, *MAILING, TIMEOUT])
@command.json_option
def send(csv_file: Path | None, tags: Mapping[str, str], **options: Any) -> None:
    """Send one email, or one for each row of a CSV file.

    Sends requests to the running relay over NATS, as any caller does, and prints the ids.

    With --csv, a column that has the name of a field (to, subject, group_id, from, from_display_name, reply_to,
    unsubscribe_url, idempotency_key) replaces its option. Every column fills {column} or {{column}} in the
    subject, the bodies (escaped in HTML), the URL (percent-encoded), the key and the tags; case does not matter.
    All rows and placeholders are checked before the first is sent. Commas, semicolons or tabs separate the cells.
    The result file has the outcome of each row; after an interruption, the same command sends the remaining rows.

    \b
    Examples:
      lfx-email-relay send --to ada@example.com --subject Hello --html mail.html --text mail.txt
      lfx-email-relay send --csv people.csv --subject 'Hello {name}' --html mail.html --text mail.txt
      lfx-email-relay send --csv people.csv ... --idempotency-key 'welcome-2026-{to}' --tag campaign=welcome
      lfx-email-relay send --csv people.csv ... --dry-run
      lfx-email-relay send --csv people.csv ... --retry-refused
    """  # noqa: D301 - \b is click's mark for a paragraph that it must not wrap
    given = ((one.name, options.pop(one.name)) for one in FIELDS if one.name)
    fields = {name: text for name, value in given if (text := text_file.without_marks(value or ""))}
    fields |= {one.name: _body(one.name, options.pop(one.name)) for one in BODIES if one.name}
    if csv_file == run.STDIN and not options["result"]:
        raise click.UsageError("--csv - needs --result: the file for the outcome of each row.")
    if csv_file:
        run.send_rows(csv_file, fields, tags, run.Options(**options))
    else:
        _refuse_options_of_mailings()
        _send_one({**fields, "tags": tags or None}, run.Options(**options))


def _refuse_options_of_mailings() -> None:
    context = click.get_current_context()
    for name in ONLY_WITH_CSV:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} needs --csv.")


def _body(name: str, file: Any) -> str:
    try:
        body = text_file.with_plain_line_ends(text_file.decode(file.read()))
    except text_file.Undecodable as error:
        raise click.UsageError(f"--{name}: {error}") from error
    if not body:
        raise click.UsageError(f"--{name} is empty. Only one of --html, --text and --csv can be standard input.")
    return body


def _send_one(fields: Mapping[str, Any], options: run.Options) -> None:
    if not (fields.get("to") and fields.get("subject")):
        raise click.UsageError("--to and --subject are required without --csv.")
    request = msgspec.convert(fields, contract.SendEmailRequest)
    if options.dry_run:
        _preview(request, as_json=options.as_json)
        return

    async def work() -> contract.SendEmailResponse:
        async with command.connected(run.NAME) as caller:
            return await caller.ask(
                contract.SEND_EMAIL_SUBJECT, request, contract.SendEmailResponse, timeout=options.timeout
            )

    sent = command.run(work())
    _print_ids(sent, as_json=options.as_json)
    if not sent.email_id:
        raise command.Failed("not sent: the recipient is outside SMTP_ALLOWED_RECIPIENT_DOMAINS")


def _preview(request: contract.SendEmailRequest, *, as_json: bool) -> None:
    if problems := rows.problems(request):
        raise command.Failed("\n  ".join(["the relay would refuse this email", *problems]))
    if as_json:
        command.print_json({"rows": 1, "to_send": 1, "first": request})
        return
    click.echo(preview.text(request))
    command.say("Dry run: nothing was sent.")


def _print_ids(sent: contract.SendEmailResponse, *, as_json: bool) -> None:
    """Print the ids; on standard error if standard output cannot be written, since the email is sent."""
    printed = sys.stdout is not None
    try:
        with output.without_reader():
            if as_json:
                command.print_json(sent)
            elif sent.email_id:
                command.print_table([("email_id", sent.email_id), ("group_id", sent.group_id)])
    except OSError:
        printed = False
        raise
    finally:
        if not printed:
            command.say(f"The relay has answered: email_id {sent.email_id}, group_id {sent.group_id}")
