# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The settings of the relay; each field is read from the environment variable of the same name in capitals."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Annotated, Final, Literal

import msgspec

from relay import header_text, host_names
from relay.submission import MAX_DISPLAY_NAME_BYTES, Policy
from shared import addresses
from shared.service.settings import Count, Domains, Password, Port, ProcessSettings, Seconds, SettingsError, Username

SPARE_SECONDS: Final = 10.0  # for KV, and for differences between clocks
LEAST_SEND_RATE: Final = 0.001  # an email in a quarter of an hour; the reciprocal of a tiny rate is infinite
IMPLICIT_TLS_PORTS: Final = frozenset({465, 2465})  # SES's TLS wrapper ports

Rate = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
"""Emails a second; 0 is no limit."""


class RelaySettings(ProcessSettings, frozen=True, kw_only=True):
    """Defaults are those of the specification."""

    email_enabled: bool = False
    smtp_host: str = "localhost"
    smtp_port: Port = 587
    smtp_username: Username = ""
    smtp_password: Password = ""
    smtp_helo_name: str = ""
    smtp_tls: Literal["auto", "required", "off"] = "auto"
    smtp_from: str = "noreply@lfx.linuxfoundation.org"
    default_smtp_from: str = ""
    default_smtp_from_display_name: str = "LFX Self Serve"
    smtp_allowed_from_domains: Domains = ("lfx.linuxfoundation.org",)
    smtp_allowed_reply_to_domains: Domains = ("linuxfoundation.org",)
    smtp_allowed_recipient_domains: Domains = ()
    smtp_max_connections: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 32  # each has a file descriptor
    smtp_max_messages_per_connection: Count = 1000
    smtp_max_idle_seconds: Seconds = 5.0
    smtp_max_age_seconds: Seconds = 300.0
    smtp_timeout_seconds: Seconds = 30.0
    send_retry_seconds: Seconds = 8.0
    ses_configuration_set: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{0,64}$")] = ""  # as SES accepts it
    ses_max_send_rate: Rate = 0.0
    ses_account_send_rate: Rate = 0.0

    def __post_init__(self) -> None:
        """Write host names in one way; `policy` refuses those that are malformed."""
        for name, normalized in (("smtp_host", host_names.server), ("smtp_helo_name", host_names.helo)):
            given = getattr(self, name)
            try:
                value = normalized(given) if given else ""
            except host_names.Malformed:
                value = f"***@{given.rpartition('@')[2]}" if "@" in given else given  # shown, and a password is not
            msgspec.structs.force_setattr(self, name, value)


def policy(settings: RelaySettings) -> Policy:
    """Return the policy that requests are checked against.

    Raises:
        SettingsError: a domain, the default sender or its name is malformed, the send rate is too low, or credentials
            would be sent without encryption, or a host name is malformed.
    """
    _check_host_names(settings)
    _check_credentials(settings)
    _check_send_rates(settings)
    return Policy(
        sender=_sender(settings),
        display_name=_display_name(settings),
        from_domains=frozenset(_wire("SMTP_ALLOWED_FROM_DOMAINS", settings.smtp_allowed_from_domains)),
        reply_to_domains=_wire("SMTP_ALLOWED_REPLY_TO_DOMAINS", settings.smtp_allowed_reply_to_domains),
        recipient_domains=_wire("SMTP_ALLOWED_RECIPIENT_DOMAINS", settings.smtp_allowed_recipient_domains),
    )


def longest_request(settings: RelaySettings) -> timedelta:
    """Return how long a request can take: its last attempt may begin as the retries end, and use its whole time."""
    return timedelta(seconds=settings.send_retry_seconds + settings.smtp_timeout_seconds + SPARE_SECONDS)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine; names are not resolved."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1
    return bool((mapped or address).is_loopback)


def _sender(settings: RelaySettings) -> addresses.Mailbox:
    variable = "DEFAULT_SMTP_FROM" if settings.default_smtp_from else "SMTP_FROM"
    try:
        return addresses.parse(settings.default_smtp_from or settings.smtp_from)
    except (addresses.Malformed, addresses.TooLong) as error:
        raise SettingsError(f"{variable}: {str(error)!r} is not one mailbox") from None


def _display_name(settings: RelaySettings) -> str:
    name = settings.default_smtp_from_display_name
    if len(name.encode()) > MAX_DISPLAY_NAME_BYTES or header_text.one_line(name) != name:
        raise SettingsError(
            "DEFAULT_SMTP_FROM_DISPLAY_NAME: must be one line without control characters, of at most "
            f"{MAX_DISPLAY_NAME_BYTES} bytes of UTF-8"
        )
    return name


def _wire(variable: str, domains: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(addresses.wire_domain(domain).lower() for domain in domains)
    except addresses.Malformed as error:
        raise SettingsError(f"{variable}: {str(error)!r} is not a domain") from None


def _check_host_names(settings: RelaySettings) -> None:
    try:
        host_names.server(settings.smtp_host)
    except host_names.Malformed:
        raise SettingsError(
            f"SMTP_HOST: {settings.smtp_host!r} is not a host name or address, without port; set SMTP_PORT"
        ) from None
    try:
        if settings.smtp_helo_name:
            host_names.helo(settings.smtp_helo_name)
    except host_names.Malformed:
        raise SettingsError(f"SMTP_HELO_NAME: {settings.smtp_helo_name!r} is not a host name or address") from None


def _check_credentials(settings: RelaySettings) -> None:
    if bool(settings.smtp_username) != bool(settings.smtp_password):
        given, missing = ("USERNAME", "PASSWORD") if settings.smtp_username else ("PASSWORD", "USERNAME")
        raise SettingsError(f"SMTP_{missing}: must be set, because SMTP_{given} is set")
    if settings.smtp_username and settings.smtp_tls == "off" and not is_loopback(settings.smtp_host):
        raise SettingsError("SMTP_TLS: off would send SMTP_PASSWORD unencrypted to another host")


def _check_send_rates(settings: RelaySettings) -> None:
    rates = {"SES_MAX_SEND_RATE": settings.ses_max_send_rate, "SES_ACCOUNT_SEND_RATE": settings.ses_account_send_rate}
    for variable, rate in rates.items():
        if 0 < rate < LEAST_SEND_RATE:
            raise SettingsError(f"{variable}: {rate:g} must be 0 or at least {LEAST_SEND_RATE} a second")
