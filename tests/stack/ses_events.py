# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""SES events in the form of SES, and the SNS envelope of the messages in the queue.

Source: the Amazon SES developer guide, "Examples of event data that Amazon SES publishes to Amazon SNS"; a test
that needs another form changes the dict.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

TRACKING_HEADER = "X-LFX-TRACKING-ID"
RECIPIENT = "reader@example.com"
SENDER = "LFX Self Serve <noreply@lfx.linuxfoundation.org>"
_TOPIC = "arn:aws:sns:us-west-2:000000000000:ses-engagement-events"
_SNS = "https://sns.us-west-2.amazonaws.com"
_BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
_ADDRESS = "192.0.2.1"

Event = dict[str, Any]


def notification(event: Mapping[str, Any], message_id: str | None = None) -> str:
    """Wrap an event as SNS does: the body of the SQS message; the message id is the event's id."""
    return _json(
        {
            "Type": "Notification",
            "MessageId": message_id or str(uuid.uuid4()),
            "TopicArn": _TOPIC,
            "Subject": "Amazon SES Email Event Notification",
            "Message": _json(event),
            "Timestamp": timestamp(datetime.now(UTC)),
            "SignatureVersion": "1",
            "Signature": "c2lnbmF0dXJl",
            "SigningCertURL": f"{_SNS}/SimpleNotificationService-0000.pem",
            "UnsubscribeURL": f"{_SNS}/?Action=Unsubscribe&SubscriptionArn={_TOPIC}:{uuid.UUID(int=0)}",
        }
    )


def delivery(tracking_id: str, at: datetime, *, to: str = RECIPIENT) -> Event:
    """Return a delivery: the receiving server accepted the mail."""
    details = {
        "timestamp": timestamp(at),
        "processingTimeMillis": 1337,
        "recipients": [to],
        "smtpResponse": "250 2.6.0 Message received",
        "reportingMTA": "a8-70.smtp-out.us-west-2.amazonses.com",
    }
    return {"eventType": "Delivery", "mail": mail(tracking_id, at, to=to), "delivery": details}


def open_(tracking_id: str, at: datetime, *, to: str = RECIPIENT) -> Event:
    """Return an open: the tracking pixel was fetched."""
    details = {"timestamp": timestamp(at), "ipAddress": _ADDRESS, "userAgent": _BROWSER}
    return {"eventType": "Open", "mail": mail(tracking_id, at, to=to), "open": details}


def click(tracking_id: str, at: datetime, link: str = "https://lfx.dev/meeting", *, to: str = RECIPIENT) -> Event:
    """Return a click: a link was followed."""
    details = {
        "timestamp": timestamp(at),
        "ipAddress": _ADDRESS,
        "userAgent": _BROWSER,
        "link": link,
        "linkTags": None,
    }
    return {"eventType": "Click", "mail": mail(tracking_id, at, to=to), "click": details}


def bounce(  # noqa: PLR0913 - the choices of a test
    tracking_id: str,
    at: datetime,
    bounce_type: str = "Permanent",
    sub_type: str = "General",
    *,
    diagnostic: str = "smtp; 550 5.1.1 user unknown",
    to: str = RECIPIENT,
) -> Event:
    """Return a bounce: the receiving server refused the mail."""
    recipient = {"emailAddress": to, "action": "failed", "status": "5.1.1", "diagnosticCode": diagnostic}
    details = {
        "feedbackId": f"0100017c-{uuid.uuid4()}-000000",
        "bounceType": bounce_type,
        "bounceSubType": sub_type,
        "bouncedRecipients": [recipient],
        "timestamp": timestamp(at),
        "reportingMTA": "dsn; a8-70.smtp-out.us-west-2.amazonses.com",
    }
    return {"eventType": "Bounce", "mail": mail(tracking_id, at, to=to), "bounce": details}


def complaint(
    tracking_id: str,
    at: datetime,
    *,
    feedback_type: str | None = "abuse",
    sub_type: str | None = None,
    to: str = RECIPIENT,
) -> Event:
    """Return a complaint: the reader marked the mail as spam."""
    details = {
        "feedbackId": f"0100017c-{uuid.uuid4()}-000000",
        "complaintSubType": sub_type,
        "complainedRecipients": [{"emailAddress": to}],
        "timestamp": timestamp(at),
        "userAgent": "Yahoo!-Mail-Feedback/2.0",
        "complaintFeedbackType": feedback_type,
        "arrivalDate": timestamp(at),
    }
    return {"eventType": "Complaint", "mail": mail(tracking_id, at, to=to), "complaint": details}


def reject(tracking_id: str, at: datetime, reason: str = "Bad content", *, to: str = RECIPIENT) -> Event:
    """Return a reject: SES accepted the mail at that time, and found a virus in it. It has no time of its own."""
    sent = {**mail(tracking_id, at, to=to), "timestamp": timestamp(at)}
    return {"eventType": "Reject", "mail": sent, "reject": {"reason": reason}}


def delivery_delay(tracking_id: str, at: datetime, delay_type: str = "MailboxFull", *, to: str = RECIPIENT) -> Event:
    """Return a delay: SES could not deliver the mail yet, and tries again for 12 hours."""
    recipient = {"emailAddress": to, "status": "4.2.2", "diagnosticCode": "smtp; 452 4.2.2 mailbox full"}
    details = {
        "timestamp": timestamp(at),
        "delayType": delay_type,
        "expirationTime": timestamp(at + timedelta(hours=12)),
        "reportingMTA": "a8-70.smtp-out.us-west-2.amazonses.com",
        "delayedRecipients": [recipient],
    }
    return {"eventType": "DeliveryDelay", "mail": mail(tracking_id, at, to=to), "deliveryDelay": details}


def send(tracking_id: str, at: datetime, *, to: str = RECIPIENT) -> Event:
    """Return a send: SES accepted the mail; no service counts this event."""
    return {"eventType": "Send", "mail": mail(tracking_id, at, to=to), "send": {}}


def mail(tracking_id: str, at: datetime, *, to: str = RECIPIENT, headers_truncated: bool = False) -> Event:
    """Return the `mail` object of a mail sent two seconds before; SES leaves out headers above 10 KB."""
    message_id = f"0101018f-{uuid.uuid4()}-000000"
    sent = timestamp(at - timedelta(seconds=2))
    return {
        "timestamp": sent,
        "source": SENDER,
        "sourceArn": "arn:aws:ses:us-west-2:000000000000:identity/lfx.linuxfoundation.org",
        "sendingAccountId": "000000000000",
        "messageId": message_id,
        "destination": [to],
        "headersTruncated": headers_truncated,
        "headers": [] if headers_truncated else _headers(tracking_id, to, sent),
        "commonHeaders": {
            "from": [SENDER],
            "date": sent,
            "to": [to],
            "messageId": message_id,
            "subject": "Your meeting",
        },
        "tags": {
            "ses:source-tls-version": ["TLSv1.3"],
            "ses:operation": ["SendSmtpEmail"],
            "ses:configuration-set": ["lfx-engagement"],
            "ses:source-ip": [_ADDRESS],
            "ses:from-domain": ["lfx.linuxfoundation.org"],
            "ses:caller-identity": ["lfx-email-service"],
            "email_id": [tracking_id.rpartition("/")[2]],
        },
    }


def timestamp(at: datetime) -> str:
    """Format a time as SES does: UTC, three digits, Z."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _headers(tracking_id: str, to: str, sent: str) -> list[dict[str, str]]:
    values = {
        "From": SENDER,
        "To": to,
        "Subject": "Your meeting",
        "Date": sent,
        "MIME-Version": "1.0",
        "Content-Type": 'multipart/alternative; boundary="===============0=="',
        "X-SES-CONFIGURATION-SET": "lfx-engagement",
        TRACKING_HEADER: tracking_id,
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
