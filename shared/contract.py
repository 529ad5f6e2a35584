# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The wire contract: subjects, buckets, requests, replies, records, push events and error strings.

Callers in Python import this module as callers in Go import `pkg/api`. Only msgspec may be imported here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, UnsetType

SEND_EMAIL_SUBJECT: Final = "lfx.email-service.send_email"
GET_EMAIL_STATUS_SUBJECT: Final = "lfx.email-service.get_email_status"
GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT: Final = "lfx.email-service.get_email_engagement_analytics"
QUEUE_GROUP: Final = "lfx.email-service.queue"

EMAIL_DELIVERED_SUBJECT: Final = "lfx.email-service.email_delivered"
EMAIL_OPENED_SUBJECT: Final = "lfx.email-service.email_opened"
EMAIL_LINK_CLICKED_SUBJECT: Final = "lfx.email-service.email_link_clicked"
EMAIL_FAILED_SUBJECT: Final = "lfx.email-service.email_failed"

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
"""How long a key lives; in the other buckets for ever."""

SUPPRESSION_REASONS: Final = ("bounce", "complaint", "manual")
IDEMPOTENCY_KEY_HEADER: Final = "Idempotency-Key"

INVALID_REQUEST_PAYLOAD: Final = "invalid request payload"
REQUIRED_FIELDS_MISSING: Final = "to, subject, html, and text are required"
INVALID_GROUP_ID: Final = "invalid group_id"
INVALID_TO: Final = "invalid to address"
INVALID_FROM: Final = "invalid from address"
INVALID_REPLY_TO: Final = "invalid reply_to address"
INVALID_SUBJECT: Final = "invalid subject"
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

Timestamp = Annotated[datetime, msgspec.Meta(tz=True)]
"""RFC 3339; what this service writes is UTC with `Z`."""


class SendEmailRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rendered email to send. `null` and an empty string mean the same as an absent field."""

    to: str | None = None
    subject: str | None = None
    html: str | None = None
    text: str | None = None
    group_id: str | None = None
    from_: str | None = msgspec.field(default=None, name="from")
    from_display_name: str | None = None
    reply_to: str | None = None
    unsubscribe_url: str | None = None
    tags: dict[str, str] | None = None
    idempotency_key: str | None = None


class SendEmailResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Both ids are empty when the recipient's domain is outside SMTP_ALLOWED_RECIPIENT_DOMAINS."""

    email_id: str
    group_id: str


class ErrorResponse(msgspec.Struct, frozen=True):
    """Any failure, on any subject; `total` comes with "response too large", `reason` with "recipient suppressed"."""

    error: str
    total: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class GetEmailStatusRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Exactly one of `email_id` and `group_id`; `offset` and `limit` page through a group in send order."""

    email_id: str | None = None
    group_id: str | None = None
    offset: int | float | None = None
    limit: int | float | None = None


class GetEmailEngagementAnalyticsRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The group whose emails are to be counted."""

    group_id: str | None = None


class GetEmailEngagementAnalyticsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """`opened` counts every open, `unique_opened` the emails with at least one."""

    group_id: str
    total_sent: int
    delivered: int
    opened: int
    unique_opened: int
    failed: int


class OpenEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One open; `event_id` is the SNS MessageId."""

    event_id: str
    opened_at: Timestamp


class ClickEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One click on a tracked link; `event_id` is the SNS MessageId."""

    event_id: str
    link: str
    clicked_at: Timestamp


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why an email failed, in the words of SES; `kind` is `bounce` or `complaint`."""

    kind: str
    type: str | UnsetType = UNSET
    sub_type: str | UnsetType = UNSET
    diagnostic: str | UnsetType = UNSET


class EmailRecipientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One sent email, the value of its `email_id` in the `email-recipients` bucket.

    `click_event_ids` is only ever present in records that the Go service has written to.
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
    tags: dict[str, str] | UnsetType = UNSET


class Suppression(msgspec.Struct, frozen=True, kw_only=True):
    """Why an address gets no mail, the value of its key in the `email-suppressions` bucket.

    `detail` is in the words of SES or of the operator; `email_id` is empty where an operator wrote it.
    """

    address: str
    reason: str
    detail: str = ""
    email_id: str = ""
    suppressed_at: Timestamp


class EmailDeliveredEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Pushed on EMAIL_DELIVERED_SUBJECT; `tags` are those of the record, as in every push event."""

    email_id: str
    group_id: str
    delivered_at: Timestamp
    tags: dict[str, str] | UnsetType = UNSET


class EmailOpenedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Pushed on EMAIL_OPENED_SUBJECT; `opened_at` is that of this open."""

    email_id: str
    group_id: str
    open_count: int
    opened_at: Timestamp
    tags: dict[str, str] | UnsetType = UNSET


class EmailLinkClickedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Pushed on EMAIL_LINK_CLICKED_SUBJECT; `link` comes without query and fragment."""

    email_id: str
    group_id: str
    event_id: str
    link: str
    click_count: int
    clicked_at: Timestamp
    tags: dict[str, str] | UnsetType = UNSET


class EmailFailedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Pushed on EMAIL_FAILED_SUBJECT; `reason` is `bounce` or `complaint`."""

    email_id: str
    group_id: str
    reason: str
    failed_at: Timestamp
    failure: Failure | UnsetType = UNSET
    tags: dict[str, str] | UnsetType = UNSET
