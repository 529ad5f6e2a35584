# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: checks the queue: credentials, attributes, permissions. Receives, hides and deletes no message.

It checks the permissions with calls that cannot succeed. SQS refuses such a call with AccessDenied if the caller lacks
the permission, else for its invalid parameters. The code for these differs between SQS, ElasticMQ, LocalStack, moto and
GoAWS, and GoAWS has none in its JSON; so any refusal counts as permitted that has no other reason.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import boto3
import msgspec
from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

from shared.commands import formatting
from shared.commands.check.checks import Check, Finding
from shared.service import threads
from shared.service.settings import SettingsError
from tracker import settings as tracker_settings
from tracker.errors import QueueUnavailable
from tracker.events import sqs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.commands.check.checks import AddFinding
    from tracker.events.sqs import Queue
    from tracker.settings import TrackerSettings

CREDENTIALS, QUEUE, PERMISSIONS = "AWS credentials", "SQS queue", "SQS permissions"
DEAD_LETTERS: Final = "SQS dead-letter queue"
CHECK_SECONDS: Final = 20.0
FEWEST_RECEIVES: Final = 3  # a tracker that stops releases its messages, and each release counts as a receive
SHORTEST_RETENTION_SECONDS: Final = 86_400
BACKLOG: Final = 10_000
CLIENT_ERROR, SERVER_ERROR = 4, 5  # the first digit of the status of HTTP
LARGE_SKEW_SECONDS: Final = 240  # AWS refuses 5 minutes with some calls, 15 with others
NO_RECEIPT_HANDLE: Final = "check"
INVALID_CALLS: Final[dict[str, dict[str, object]]] = {
    # for 0 messages LocalStack and GoAWS return 1, and for -1 LocalStack returns all
    "receive_message": {"MaxNumberOfMessages": -2, "WaitTimeSeconds": -1, "VisibilityTimeout": 0},
    "delete_message": {"ReceiptHandle": NO_RECEIPT_HANDLE},
    "change_message_visibility": {"ReceiptHandle": NO_RECEIPT_HANDLE, "VisibilityTimeout": 0},
}
ACTIONS: Final = {
    "get_queue_attributes": "sqs:GetQueueAttributes",
    "receive_message": "sqs:ReceiveMessage",
    "delete_message": "sqs:DeleteMessage",
    "change_message_visibility": "sqs:ChangeMessageVisibility",
}
DENIED: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "KMS.AccessDeniedException",
        "KmsAccessDenied",
        "NotAuthorized",
        "UnauthorizedOperation",
    }
)
NO_SUCH_QUEUE: Final = frozenset({"NonExistentQueue", "QueueDoesNotExist", "QueueDeletedRecently"})
INVALID_CREDENTIALS: Final = sqs.REFUSED_CREDENTIALS | {
    "AuthFailure",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidSecurity",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "OptInRequired",
    "RequestExpired",
    "RequestTimeTooSkewed",
}
SIGNED_AT_ANOTHER_TIME: Final = frozenset({"RequestExpired", "RequestTimeTooSkewed"})
WRONG_SIGNATURE: Final = frozenset({"InvalidSignatureException", "SignatureDoesNotMatch"})
INTERNAL: Final = frozenset({"InternalError", "InternalFailure", "InternalServerError", "ServiceUnavailable"})
THROTTLED: Final = frozenset(
    {
        "OverLimit",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
UNSUPPORTED: Final = frozenset(
    {
        "InvalidAction",
        "MissingAction",
        "NotImplemented",
        "UnknownOperation",
        "UnknownOperationException",
        "UnsupportedOperation",
    }
)
OTHER_REASONS: Final = DENIED | NO_SUCH_QUEUE | INVALID_CREDENTIALS | INTERNAL | THROTTLED | UNSUPPORTED
OTHER_STATUSES: Final = frozenset({401, 403, 405, 407, 408, 429})  # of HTTP: not about the parameters of the call


def check(settings: TrackerSettings, environ: Mapping[str, str]) -> Check:
    """Return the check of the queue."""

    async def run(add: AddFinding) -> None:
        if not settings.ses_eventing_enabled:
            add(Finding("skipped", QUEUE, "SES_EVENTING_ENABLED is false: no events are received"))
            return
        try:
            tracker_settings.check(settings)
        except SettingsError:
            add(Finding("skipped", QUEUE, "not checked without a URL in SES_ENGAGEMENT_SQS_QUEUE_URL"))
            return
        url = settings.ses_engagement_sqs_queue_url
        queue = sqs.Queue(url, environ, visibility_seconds=0)
        add(await _credentials(queue.region))
        attributes = await _attributes(queue, add)
        if attributes is None:
            return
        if finding := await _dead_letters(url, attributes, environ):
            add(finding)
        add(await _permissions(queue))

    return Check(QUEUE, CHECK_SECONDS, run)


async def _credentials(region: str) -> Finding:
    try:
        method = await threads.run(_method)
    except Exception as error:  # noqa: BLE001 - botocore passes on what the source of the credentials caused
        advice = "check the service account's role and its trust policy"
        return Finding("failed", CREDENTIALS, f"cannot be loaded: {sqs.reason(error)}", advice)
    if not method:
        return Finding("failed", CREDENTIALS, "not found", "give the service account a role (IRSA), or set AWS_*")
    return Finding("ok", CREDENTIALS, f"from {method}, region {region}")


def _method() -> str:
    """Return the source of boto3's credentials, after loading them; empty if it finds none."""
    found = boto3.session.Session().get_credentials()
    if found is None:
        return ""
    found.get_frozen_credentials()
    return str(found.method)


async def _attributes(queue: Queue, add: AddFinding) -> Mapping[str, str] | None:
    """Add a finding about the queue; return its attributes, or None if its permissions cannot be checked."""
    try:
        answer = await queue.ask("get_queue_attributes", AttributeNames=["All"])
    except QueueUnavailable as error:
        finding = _unavailable(error)
        add(finding)
        return {} if finding.status == "warning" else None
    attributes: dict[str, str] = answer.get("Attributes") or {}
    add(_described(attributes))
    return attributes


def _unavailable(error: QueueUnavailable) -> Finding:
    code, found = _code(error), str(error)
    if code in DENIED:  # the tracker itself does not read the attributes
        return Finding("warning", QUEUE, "its attributes cannot be read", f"grant {ACTIONS['get_queue_attributes']}")
    if code in UNSUPPORTED or (_is_permitted(error) and not code.isdigit()):  # a number: not an answer of a queue
        return Finding("warning", QUEUE, f"its attributes cannot be read: {found}", "this server is not SQS itself")
    if code in NO_SUCH_QUEUE:
        return Finding("failed", QUEUE, "does not exist", "check SES_ENGAGEMENT_SQS_QUEUE_URL and the account")
    return Finding("failed", QUEUE, found, _advice(code, error))


def _advice(code: str, error: QueueUnavailable) -> str:
    """Return what to do about a queue that does not answer as a queue."""
    if code in INVALID_CREDENTIALS:
        return _advice_on_credentials(code, error)
    if code in THROTTLED:
        return "too many requests: try again later"
    if code in INTERNAL or _status(error) // 100 == SERVER_ERROR:
        return "SQS itself fails: try again later, and look at the AWS Health Dashboard"
    if isinstance(error.__cause__, NoCredentialsError | PartialCredentialsError):
        return "see the line above"
    return "check the URL, the region, and the network to AWS (proxy, firewall, VPC endpoint)"


def _advice_on_credentials(code: str, error: QueueUnavailable) -> str:
    """Return what to do about a refused signature. AWS refuses one that differs by 15 minutes (RequestExpired)."""
    skew = _clock_skew(error)
    if abs(skew) >= LARGE_SKEW_SECONDS:
        direction = "ahead of" if skew > 0 else "behind"
        return f"the clock of this machine is {formatting.duration(abs(skew))} {direction} that of AWS: set it"
    if code in SIGNED_AT_ANOTHER_TIME:
        return "the clock of this machine is wrong: set it, for example with NTP"
    if code in WRONG_SIGNATURE:
        return "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID, or the clock of this machine is wrong"
    return "the credentials are not valid, or have expired: renew them"


def _clock_skew(error: QueueUnavailable) -> float:
    """Return by how many seconds this machine's clock is ahead of the server's; 0 if the answer has no time."""
    cause = error.__cause__
    metadata = cause.response.get("ResponseMetadata", {}) if isinstance(cause, ClientError) else {}
    try:
        at = parsedate_to_datetime(metadata.get("HTTPHeaders", {}).get("date", ""))
    except (TypeError, ValueError):
        return 0.0
    return (datetime.now(UTC) - at.astimezone(UTC)).total_seconds()


async def _dead_letters(url: str, attributes: Mapping[str, str], environ: Mapping[str, str]) -> Finding | None:
    """Return the finding about the dead-letter queue, which is in the same account and region; None without one."""
    name = _dead_letter_name(attributes)
    if not name:
        return None
    queue = sqs.Queue(f"{url.rpartition('/')[0]}/{name}", environ, visibility_seconds=0)
    try:
        answer = await queue.ask("get_queue_attributes", AttributeNames=["ApproximateNumberOfMessages"])
    except QueueUnavailable as error:
        return Finding("skipped", DEAD_LETTERS, f"{name}: {error}", f"grant {ACTIONS['get_queue_attributes']} for it")
    count = int((answer.get("Attributes") or {}).get("ApproximateNumberOfMessages", 0))
    found = f"{name}: {_messages(count)}"
    if count:
        return Finding("warning", DEAD_LETTERS, found, "look at them, and apply them with lfx-email-tracker replay")
    return Finding("ok", DEAD_LETTERS, found)


def _messages(count: int) -> str:
    return f"about {count:,} message{'' if count == 1 else 's'}"


def _dead_letter_name(attributes: Mapping[str, str]) -> str:
    return str(_redrive(attributes).get("deadLetterTargetArn", "")).rpartition(":")[2]


def _described(attributes: Mapping[str, str]) -> Finding:
    visible = int(attributes.get("ApproximateNumberOfMessages", 0))
    hidden = int(attributes.get("ApproximateNumberOfMessagesNotVisible", 0))
    retention = int(attributes.get("MessageRetentionPeriod", 0))
    redrive = _redrive(attributes)
    dead_letters = _dead_letter_name(attributes)
    receives = int(redrive.get("maxReceiveCount", 0))
    parts = [
        f"{_messages(visible)} waiting, {hidden:,} in flight",
        f"kept for {formatting.duration(retention)}" if retention else "",
        f"visibility {attributes.get('VisibilityTimeout', '?')} s (each receive sets its own)",
        f"moved to {dead_letters} after {receives} receives" if dead_letters else "no dead-letter queue",
    ]
    advice = (
        (not dead_letters, "add a dead-letter queue: without it, a message that always fails is received without end"),
        (bool(dead_letters) and receives < FEWEST_RECEIVES, f"set maxReceiveCount to {FEWEST_RECEIVES} or more"),
        (
            bool(retention) and retention < SHORTEST_RETENTION_SECONDS,
            "set a retention of days, so that an outage loses no messages",
        ),
        ("sns.amazonaws.com" not in attributes.get("Policy", ""), "allow SNS to send to it: its policy does not"),
        (visible > BACKLOG, "there is a backlog: run more trackers"),
    )
    text = "; ".join(text for applies, text in advice if applies)
    return Finding("warning" if text else "ok", QUEUE, ", ".join(filter(None, parts)), text)


def _redrive(attributes: Mapping[str, str]) -> dict[str, Any]:
    try:
        return msgspec.json.decode(attributes.get("RedrivePolicy", "{}"), type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


async def _permissions(queue: Queue) -> Finding:
    denied, unclear = [], []
    for operation, arguments in INVALID_CALLS.items():
        try:
            await queue.ask(operation, **arguments)
        except QueueUnavailable as error:
            code = _code(error)
            if code in DENIED:
                denied.append(ACTIONS[operation])
            elif not _is_permitted(error):
                unclear.append(str(error))
    if denied:
        return Finding("failed", PERMISSIONS, f"denied: {', '.join(denied)}", "grant them to the tracker's role")
    if unclear:
        return Finding("failed", PERMISSIONS, "; ".join(unclear), "see the lines above")
    return Finding("ok", PERMISSIONS, "may receive, delete and change visibility")


def _is_permitted(error: QueueUnavailable) -> bool:
    """Return whether a call was refused for its parameters, which is checked after the permission."""
    code = _code(error)
    is_refusal = _status(error) // 100 == CLIENT_ERROR and _status(error) not in OTHER_STATUSES
    return is_refusal and code not in OTHER_REASONS and not code.lower().startswith("kms")


def _code(error: QueueUnavailable) -> str:
    cause = error.__cause__
    code = str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""
    return code.strip().removeprefix("AWS.SimpleQueueService.")


def _status(error: QueueUnavailable) -> int:
    cause = error.__cause__
    metadata = cause.response.get("ResponseMetadata", {}) if isinstance(cause, ClientError) else {}
    return int(metadata.get("HTTPStatusCode", 0))
