# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: tries the queue: credentials, attributes, permissions. No message is received, hidden or deleted.

The permissions are tried with calls that mean nothing: none of them can do anything. SQS refuses such a call for what
it holds only where it has let the caller in, and answers AccessDenied otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import boto3
import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from shared.commands import formatting
from shared.commands.check.checkup import Finding, Probe
from shared.service import threads as daemon_thread
from shared.service.settings import SettingsError
from tracker import settings as rules
from tracker.errors import QueueUnavailable
from tracker.events import sqs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.commands.check.checkup import Tell
    from tracker.events.sqs import Queue
    from tracker.settings import TrackerSettings

CREDENTIALS, QUEUE, PERMISSIONS = "AWS credentials", "SQS queue", "SQS permissions"
PROBE_SECONDS: Final = 20.0
FEWEST_RECEIVES: Final = 3  # a tracker that is replaced lets go of its messages, which counts as a receive
SHORTEST_RETENTION_SECONDS: Final = 86_400
BACKLOG: Final = 10_000
NOBODY: Final = "check"  # no receipt handle looks like this
MEANINGLESS: Final[dict[str, dict[str, object]]] = {
    "receive_message": {"MaxNumberOfMessages": 0},
    "delete_message": {"ReceiptHandle": NOBODY},
    "change_message_visibility": {"ReceiptHandle": NOBODY, "VisibilityTimeout": 0},
}
ACTIONS: Final = {
    "get_queue_attributes": "sqs:GetQueueAttributes",
    "receive_message": "sqs:ReceiveMessage",
    "delete_message": "sqs:DeleteMessage",
    "change_message_visibility": "sqs:ChangeMessageVisibility",
}
REFUSED_FOR_CONTENT: Final = frozenset(
    {"InvalidParameterValue", "ReadCountOutOfRange", "ReceiptHandleIsInvalid", "InvalidIdFormat", "InvalidAddress"}
)
DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "AuthorizationError", "KMS.AccessDeniedException"})
NO_SUCH_QUEUE: Final = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
NOT_KNOWN: Final = sqs.EXPIRED | {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity"}


def probe(settings: TrackerSettings, environ: Mapping[str, str]) -> Probe:
    """Return the probe."""

    async def try_out(tell: Tell) -> None:
        if not settings.ses_eventing_enabled:
            tell(Finding("skipped", QUEUE, "SES_EVENTING_ENABLED is false: no events are taken, queries are answered"))
            return
        try:
            rules.check(settings)
        except SettingsError:
            tell(Finding("skipped", QUEUE, "not tried without the URL of one in SES_ENGAGEMENT_SQS_QUEUE_URL"))
            return
        queue = sqs.Queue(settings.ses_engagement_sqs_queue_url, environ, visibility_seconds=0)
        tell(await _credentials(queue.region))
        if await _attributes(queue, tell):
            tell(await _permissions(queue))

    return Probe(QUEUE, PROBE_SECONDS, try_out)


async def _credentials(region: str) -> Finding:
    try:
        method = await daemon_thread.run(_method)
    except (BotoCoreError, ClientError, OSError) as error:
        advice = "check the service account's role and its trust policy"
        return Finding("failed", CREDENTIALS, f"cannot be had: {error}", advice)
    if not method:
        return Finding("failed", CREDENTIALS, "there are none", "give the service account a role (IRSA), or set AWS_*")
    return Finding("ok", CREDENTIALS, f"from {method}, region {region}")


def _method() -> str:
    """Return where boto3 has its credentials from, once it really has them."""
    found = boto3.session.Session().get_credentials()
    if found is None:
        return ""
    found.get_frozen_credentials()
    return str(found.method)


async def _attributes(queue: Queue, tell: Tell) -> bool:
    """Tell of the queue; return whether it is any use to try more."""
    try:
        answer = await queue.ask("get_queue_attributes", AttributeNames=["All"])
    except QueueUnavailable as error:
        finding = _unavailable(error)
        tell(finding)
        return finding.verdict == "warning"
    attributes: dict[str, str] = answer.get("Attributes") or {}
    tell(_described(attributes))
    return True


def _unavailable(error: QueueUnavailable) -> Finding:
    code, said = _code(error), str(error)
    if code in DENIED:  # the tracker itself needs no attributes
        return Finding("warning", QUEUE, "its attributes may not be read", f"grant {ACTIONS['get_queue_attributes']}")
    if code in NO_SUCH_QUEUE:
        return Finding("failed", QUEUE, "there is no such queue", "check SES_ENGAGEMENT_SQS_QUEUE_URL and the account")
    if code in NOT_KNOWN:
        return Finding("failed", QUEUE, said, "these credentials are not, or no longer, good")
    return Finding(
        "failed", QUEUE, said, "check the URL, the region, and the way to AWS (proxy, firewall, VPC endpoint)"
    )


def _described(attributes: Mapping[str, str]) -> Finding:
    visible = int(attributes.get("ApproximateNumberOfMessages", 0))
    hidden = int(attributes.get("ApproximateNumberOfMessagesNotVisible", 0))
    retention = int(attributes.get("MessageRetentionPeriod", 0))
    redrive = _redrive(attributes)
    dead_letters = str(redrive.get("deadLetterTargetArn", "")).rpartition(":")[2]
    receives = int(redrive.get("maxReceiveCount", 0))
    parts = [
        f"about {visible:,} messages wait, {hidden:,} in flight",
        f"kept for {formatting.duration(retention)}" if retention else "",
        f"visibility {attributes.get('VisibilityTimeout', '?')} s (each receive asks for its own)",
        f"after {receives} receives to {dead_letters}" if dead_letters else "no dead-letter queue",
    ]
    remarks = (
        (not dead_letters, "give it a dead-letter queue, else a message that cannot be settled comes again and again"),
        (bool(dead_letters) and receives < FEWEST_RECEIVES, f"set maxReceiveCount to {FEWEST_RECEIVES} or more"),
        (
            bool(retention) and retention < SHORTEST_RETENTION_SECONDS,
            "keep messages for days, so that an outage loses none",
        ),
        ("sns.amazonaws.com" not in attributes.get("Policy", ""), "let SNS send to it: no policy of the queue does"),
        (visible > BACKLOG, "there is a backlog: run more trackers"),
    )
    advice = "; ".join(advice for applies, advice in remarks if applies)
    return Finding("warning" if advice else "ok", QUEUE, ", ".join(filter(None, parts)), advice)


def _redrive(attributes: Mapping[str, str]) -> dict[str, Any]:
    try:
        return msgspec.json.decode(attributes.get("RedrivePolicy", "{}"), type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


async def _permissions(queue: Queue) -> Finding:
    denied, unclear = [], []
    for operation, arguments in MEANINGLESS.items():
        try:
            await queue.ask(operation, **arguments)
        except QueueUnavailable as error:
            code = _code(error)
            if code in DENIED:
                denied.append(ACTIONS[operation])
            elif code not in REFUSED_FOR_CONTENT:
                unclear.append(str(error))
    if denied:
        return Finding("failed", PERMISSIONS, f"denied: {', '.join(denied)}", "grant them to the tracker's role")
    if unclear:
        return Finding("failed", PERMISSIONS, "; ".join(unclear), "see the lines above")
    return Finding("ok", PERMISSIONS, "may receive, delete, and change visibility")


def _code(error: QueueUnavailable) -> str:
    cause = error.__cause__
    return str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""
