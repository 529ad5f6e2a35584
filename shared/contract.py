# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The wire contract: subjects, buckets, requests, replies, records, push events and error strings.

Callers in Python import this module. A request and its reply are JSON over NATS; only a failure has a field `error`:

    request = contract.SendEmailRequest(to="ada@example.com", subject="Hello", html="<p>Hello</p>", text="Hello")
    msg = await nc.request(contract.SEND_EMAIL_SUBJECT, msgspec.json.encode(request), timeout=10)
    kind = contract.ErrorResponse if "error" in json.loads(msg.data) else contract.SendEmailResponse
    reply = msgspec.json.decode(msg.data, type=kind)

docs/contract.md explains each field, limit and error. Only msgspec may be imported here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

SEND_EMAIL_SUBJECT: Final = "lfx.email-service.send_email"
GET_EMAIL_STATUS_SUBJECT: Final = "lfx.email-service.get_email_status"
GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT: Final = "lfx.email-service.get_email_engagement_analytics"
QUEUE_GROUP: Final = "lfx.email-service.queue"
"""The NATS queue group of the service: each request is served by one of the replicas. Callers do not need it."""

EMAIL_DELIVERED_SUBJECT: Final = "lfx.email-service.email_delivered"
EMAIL_OPENED_SUBJECT: Final = "lfx.email-service.email_opened"
EMAIL_LINK_CLICKED_SUBJECT: Final = "lfx.email-service.email_link_clicked"
EMAIL_FAILED_SUBJECT: Final = "lfx.email-service.email_failed"
PUSH_EVENT_SUBJECTS: Final = (
    EMAIL_DELIVERED_SUBJECT,
    EMAIL_OPENED_SUBJECT,
    EMAIL_LINK_CLICKED_SUBJECT,
    EMAIL_FAILED_SUBJECT,
)
PUSH_EVENTS_STREAM: Final = "email-events"
"""The JetStream stream of the push events, if the tracker has PUSH_EVENTS_DURABLE=true."""
MESSAGE_ID_HEADER: Final = "Nats-Msg-Id"
"""The header of a push event that is the same each time this event is published: `<email_id>/<kind>/<event_id>`."""

EMAIL_RECIPIENTS_BUCKET: Final = "email-recipients"
EMAIL_GROUP_INDEX_BUCKET: Final = "email-group-index"
EMAIL_IDEMPOTENCY_BUCKET: Final = "email-idempotency"
EMAIL_SUPPRESSIONS_BUCKET: Final = "email-suppressions"
BUCKETS: Final = (
    EMAIL_RECIPIENTS_BUCKET,
    EMAIL_GROUP_INDEX_BUCKET,
    EMAIL_IDEMPOTENCY_BUCKET,
    EMAIL_SUPPRESSIONS_BUCKET,
)
BUCKET_TTL_SECONDS: Final = {EMAIL_IDEMPOTENCY_BUCKET: 86_400}
"""The time after which a key expires; in the other buckets keys do not expire."""

Outcome = Literal["not_sent", "unknown"]
"""What became of the email of a failed request: it was not sent, or it may have been."""
SUPPRESSION_REASONS: Final = ("bounce", "complaint", "manual")
IDEMPOTENCY_KEY_HEADER: Final = "Idempotency-Key"

INVALID_REQUEST_PAYLOAD: Final = "invalid request payload"
REQUIRED_FIELDS_MISSING: Final = "to, subject, html, and text are required"
INVALID_GROUP_ID: Final = "invalid group_id"
INVALID_TO: Final = "invalid to address"
INVALID_FROM: Final = "invalid from address"
INVALID_REPLY_TO: Final = "invalid reply_to address"
INVALID_SUBJECT: Final = "invalid subject"
"""Only older versions reply this, as INVALID_DISPLAY_NAME: line breaks and control characters are cleaned."""
INVALID_DISPLAY_NAME: Final = "invalid from_display_name"
TO_TOO_LONG: Final = "to address too long"
FROM_TOO_LONG: Final = "from address too long"
REPLY_TO_TOO_LONG: Final = "reply_to address too long"
SUBJECT_TOO_LONG: Final = "subject too long"
DISPLAY_NAME_TOO_LONG: Final = "from_display_name too long"
FROM_NOT_ALLOWED: Final = "from address domain not allowed"
REPLY_TO_NOT_ALLOWED: Final = "reply_to address domain not allowed"
INVALID_UNSUBSCRIBE_URL: Final = "invalid unsubscribe_url"
INVALID_TAGS: Final = "invalid tags"
INVALID_IDEMPOTENCY_KEY: Final = "invalid idempotency_key"
IDEMPOTENCY_KEY_REUSED: Final = "idempotency key reused"
REQUEST_IN_PROGRESS: Final = "request in progress"
OUTCOME_UNKNOWN: Final = "delivery outcome unknown"
RECIPIENT_SUPPRESSED: Final = "recipient suppressed"
DELIVERY_FAILED: Final = "email delivery failed"
SERVICE_BUSY: Final = "service busy"
INTERNAL_ERROR: Final = "internal error"
EMAIL_OR_GROUP_REQUIRED: Final = "email_id or group_id is required"
ONLY_ONE_ID: Final = "only one of email_id or group_id may be set"
INVALID_OFFSET: Final = "invalid offset"
INVALID_LIMIT: Final = "invalid limit"
NOT_FOUND: Final = "not found"
RESPONSE_TOO_LARGE: Final = "response too large"

ERASED: Final = "erased"
"""The value of `to` and `subject` in a record whose personal data were erased. No address has this form."""

Timestamp = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time in RFC 3339, which must have a time zone; the service writes UTC with `Z`."""


class SendEmailRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rendered email to send; `to`, `subject`, `html` and `text` are required.

    `null` and an empty string mean the same as an absent field. Line breaks and control characters in `subject` and
    `from_display_name` are cleaned. `list_unsubscribe_url` is an alias of `unsubscribe_url`, which counts before it;
    with the alias, one-click unsubscription needs `list_unsubscribe_post`:

        SendEmailRequest(..., list_unsubscribe_url="https://lfx.dev/unsubscribe/4711", list_unsubscribe_post=True)
    """

    to: str | None = None
    subject: str | None = None
    html: str | None = None
    text: str | None = None
    group_id: str | None = None
    from_: str | None = msgspec.field(default=None, name="from")
    from_display_name: str | None = None
    reply_to: str | None = None
    unsubscribe_url: str | None = None
    list_unsubscribe_url: str | None = None
    list_unsubscribe_post: bool | None = None
    tags: dict[str, str] | None = None
    idempotency_key: str | None = None


class SendEmailResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The mail server accepted the email. `group_id` is that of the request, or a new UUID.

    Both ids are empty, and nothing was sent, if the recipient's domain is outside SMTP_ALLOWED_RECIPIENT_DOMAINS.
    """

    email_id: str
    group_id: str


class ErrorResponse(msgspec.Struct, frozen=True):
    """A failure, on any of the three subjects; `error` is one of the error strings above.

    `total` (emails in the group) comes with RESPONSE_TOO_LARGE, `reason` (why the address gets no mail) with
    RECIPIENT_SUPPRESSED. The other fields come from `send_email` only:

    - `outcome`, one of `Outcome`, with DELIVERY_FAILED, and with INTERNAL_ERROR after the checks. With `unknown` nobody
      can tell whether the email was sent: repeating the request may send it twice.
    - `permanent` with DELIVERY_FAILED: the same request will fail again.
    - `smtp_code`, the mail server's last reply code, with DELIVERY_FAILED where the server answered.

        {"error": "email delivery failed", "outcome": "not_sent", "permanent": true, "smtp_code": 550}
    """

    error: str
    total: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    outcome: str | UnsetType = UNSET
    permanent: bool | UnsetType = UNSET
    smtp_code: int | UnsetType = UNSET


class GetEmailStatusRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A query for the record of one email (`email_id`) or the records of a group (`group_id`).

    The reply is an EmailRecipientRecord, or an array of them in the order of sending, which `offset` and `limit` page
    through. An `email_id` in capitals or with blanks around it is found. Both ids together are ONLY_ONE_ID, or with
    STATUS_BY_BOTH_IDS=true the record if it is of that group.
    """

    email_id: str | None = None
    group_id: str | None = None
    offset: int | float | None = None
    limit: int | float | None = None


class GetEmailEngagementAnalyticsRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A query for the counts of a group of emails."""

    group_id: str | None = None


class GetEmailEngagementAnalyticsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of a group: `opened` counts every open, the other fields count emails."""

    group_id: str
    total_sent: int
    delivered: int
    opened: int
    unique_opened: int
    failed: int


class OpenEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The recipient opened the email once; `event_id` is the MessageId of the SNS notification."""

    event_id: str
    opened_at: Timestamp


class ClickEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The recipient followed a link once; `event_id` is the MessageId of the SNS notification."""

    event_id: str
    link: str
    clicked_at: Timestamp


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why an email failed. `kind` is `bounce`, `complaint` or `reject`; the other fields are strings of Amazon SES.

    `type` and `sub_type` classify it, such as `Permanent` and `General`. `diagnostic` is the own text of the
    recipient's mail server, such as `smtp; 550 5.1.1 user unknown`; of a reject it is the reason of SES, such as
    `Bad content`.
    """

    kind: str
    type: str | UnsetType = UNSET
    sub_type: str | UnsetType = UNSET
    diagnostic: str | UnsetType = UNSET


class Delay(msgspec.Struct, frozen=True, kw_only=True):
    """SES could not deliver the email yet, and tries again; the strings are those of Amazon SES.

    `type` classifies the delay, such as `MailboxFull`. `at` is the time of the report, such as `2026-01-02T03:04:05Z`,
    and `until` the time after which SES gives up. `diagnostic` is the own text of the recipient's mail server, such as
    `smtp; 452 4.2.2 mailbox full`.
    """

    type: str | UnsetType = UNSET
    at: Timestamp
    until: Timestamp | UnsetType = UNSET
    diagnostic: str | UnsetType = UNSET


class EmailRecipientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one sent email and of the events that SES reported for it.

    It is the reply to a status query, and the value under the key `email_id` in the bucket `email-recipients`. `to` and
    `subject` are as the caller gave them, or ERASED where personal data was erased. `delivered_at` and `failed_at` are
    the earliest times, `last_opened_at` and `last_clicked_at` the latest. `click_event_ids` is present only in records
    that the Go service has written to.

    `failure` is the earliest failure. `complained_at` is the earliest complaint, such as `2026-01-02T03:04:05Z`, also
    after a bounce. `delay` is the latest delay, such as `{"type": "MailboxFull", "at": "2026-01-02T03:04:05Z"}`; it
    stays after the email was delivered or failed.
    """

    email_id: str
    group_id: str
    to: str
    subject: str
    sent_at: Timestamp
    delivered: bool = False
    delivered_at: Timestamp | UnsetType = UNSET
    opened: bool = False
    open_count: int = 0
    opened_at_list: tuple[OpenEvent, ...] | UnsetType = UNSET
    last_opened_at: Timestamp | UnsetType = UNSET
    clicked: bool = False
    click_count: int = 0
    click_event_ids: tuple[str, ...] | UnsetType = UNSET
    click_list: tuple[ClickEvent, ...] | UnsetType = UNSET
    last_clicked_at: Timestamp | UnsetType = UNSET
    failed: bool = False
    failed_at: Timestamp | UnsetType = UNSET
    failure: Failure | UnsetType = UNSET
    complained_at: Timestamp | UnsetType = UNSET
    delay: Delay | UnsetType = UNSET
    tags: dict[str, str] | UnsetType = UNSET


class Suppression(msgspec.Struct, frozen=True, kw_only=True):
    """An address that gets no mail, and why: a value in the bucket `email-suppressions`.

    `reason` is one of SUPPRESSION_REASONS. `detail` is a text of SES or of the operator. `email_id` is the email that
    bounced or was complained about; it is empty if an operator added the entry.
    """

    address: str
    reason: str
    detail: str = ""
    email_id: str = ""
    suppressed_at: Timestamp


class EmailDeliveredEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Published on EMAIL_DELIVERED_SUBJECT: the recipient's mail server accepted the email.

    `tags` are the tags of the request, as in every push event.
    """

    email_id: str
    group_id: str
    delivered_at: Timestamp
    tags: dict[str, str] | UnsetType = UNSET


class EmailOpenedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Published on EMAIL_OPENED_SUBJECT: one open, at `opened_at`; `open_count` counts it and the earlier ones."""

    email_id: str
    group_id: str
    open_count: int
    opened_at: Timestamp
    tags: dict[str, str] | UnsetType = UNSET


class EmailLinkClickedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Published on EMAIL_LINK_CLICKED_SUBJECT: one click; `link` is without query, fragment and credentials."""

    email_id: str
    group_id: str
    event_id: str
    link: str
    click_count: int
    clicked_at: Timestamp
    tags: dict[str, str] | UnsetType = UNSET


class EmailFailedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Published on EMAIL_FAILED_SUBJECT: the email bounced, the recipient complained about it, or SES rejected it.

    `reason` is `bounce`, `complaint` or `reject`. `failure` has the details of this event, such as
    `{"kind": "reject", "diagnostic": "Bad content"}`.
    """

    email_id: str
    group_id: str
    reason: str
    failed_at: Timestamp
    failure: Failure | UnsetType = UNSET
    tags: dict[str, str] | UnsetType = UNSET
