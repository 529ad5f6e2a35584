# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reads settings from environment variables, secrets also from files, and describes each variable."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from shared import redaction

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRUE: Final = frozenset({"true", "t", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "f", "0", "no", "off"})

MAX_FILE_BYTES: Final = 65_536

Secret = Annotated[str, msgspec.Meta(extra={"secret": True, "from_file": True})]
"""A value that is never shown, such as a URL that may contain a password. It may be in the file `<VARIABLE>_FILE`."""

Password = Annotated[str, msgspec.Meta(extra={"secret": True, "from_file": True, "blanks_count": True})]
"""A password: never shown, and only line ends are trimmed, since blanks belong to it. It may be in a file, too."""

Username = Annotated[str, msgspec.Meta(extra={"from_file": True})]
"""A user name, which may be in a file as well, beside its password."""

Domains = Annotated[tuple[str, ...], msgspec.Meta(extra={"empty_counts": True})]
"""Comma-separated domains, in lower case. An empty value means no domain; an unset variable means the default."""

InboxPrefix = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?!lfx\.email-service(\.|$))[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
        description="words of A-Z a-z 0-9 _ - with dots between them, outside lfx.email-service",
    ),
]
"""The beginning of reply subjects. The service sends no replies to its own subjects (`endpoint.is_inbox`)."""

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000_000)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
"""A time of at most a day: deadlines cannot be computed with very large or infinite values."""


class SettingsError(Exception):
    """A variable is invalid. The message has its name, its value unless that is secret, and the expected values."""


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to connect to NATS. Each field is the variable of the same name in capitals."""

    nats_url: Secret = "nats://localhost:4222"
    nats_creds: str = ""
    nats_inbox_prefix: InboxPrefix = "_INBOX"


class ProcessSettings(NatsSettings, frozen=True, kw_only=True):
    """The other settings that both processes have."""

    port: Port = 8080
    log_level: Literal["debug", "info", "warn", "error"] = "info"
    log_add_source: bool = False
    max_in_flight: Count = 1024
    max_in_flight_bytes: Bytes = 25_000_000
    suppression_enabled: bool = False
    shutdown_timeout_seconds: Seconds = 25.0


S = TypeVar("S", bound=NatsSettings)


def load(environ: Mapping[str, str], kind: type[S]) -> S:
    """Read every field of `kind` from its variable; an empty value means the default.

    Raises:
        SettingsError: a variable has an invalid value.
    """
    hints = get_type_hints(kind, include_extras=True)
    given = {name: _given(environ, name.upper(), hints[name]) for name in kind.__struct_fields__}
    return kind(**{name: value for name, value in given.items() if value is not None})


class Variable(msgspec.Struct, frozen=True):
    """A variable: its value with secrets redacted, where the value comes from, and the error if it is invalid."""

    variable: str
    value: str
    source: Literal["environment", "option", "file", "default", "empty, so the default"]
    error: str = ""


def describe(environ: Mapping[str, str], kind: type[S]) -> tuple[S, list[Variable]]:
    """Read the fields like `load`, but use the default of a variable that is invalid, and describe each variable."""
    hints = get_type_hints(kind, include_extras=True)
    read: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name in kind.__struct_fields__:
        try:
            value = _given(environ, name.upper(), hints[name])
        except SettingsError as error:
            errors[name] = str(error)
            continue
        if value is not None:
            read[name] = value
    settings = kind(**read)
    return settings, [
        Variable(
            name.upper(),
            _shown(getattr(settings, name), hints[name]),
            _source(environ, name.upper(), hints[name], is_given=name in read or name in errors),
            errors.get(name, ""),
        )
        for name in kind.__struct_fields__
    ]


def _source(
    environ: Mapping[str, str], variable: str, hint: Any, *, is_given: bool
) -> Literal["environment", "file", "default", "empty, so the default"]:
    if _extra(hint).get("from_file") and environ.get(f"{variable}_FILE", "").strip():
        return "file"
    if is_given:
        return "environment"
    return "empty, so the default" if variable in environ else "default"


def secret_in_file(environ: Mapping[str, str], variable: str) -> str | None:
    """Return the content of the file that `<VARIABLE>_FILE` names; None if that is not set.

    Raises:
        SettingsError: the variable itself is set, too, or the file cannot be read or is empty.
    """
    path = environ.get(f"{variable}_FILE", "").strip()
    if not path:
        return None
    if environ.get(variable, "").strip():
        raise SettingsError(f"{variable}_FILE: {variable} is set, too; set one of them")
    return _read(variable, path)


def _read(variable: str, path: str) -> str:
    """Return the content of a file without the line end that editors add."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:  # a ValueError, too
        raise SettingsError(f"{variable}_FILE: the content of {path!r} is not UTF-8") from None
    except (OSError, ValueError) as error:  # a path with NUL is a ValueError
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise SettingsError(f"{variable}_FILE: cannot read {path!r}: {reason}") from None
    if len(content) > MAX_FILE_BYTES:
        raise SettingsError(f"{variable}_FILE: {path!r} is larger than {MAX_FILE_BYTES} bytes")
    if not text.strip():
        raise SettingsError(f"{variable}_FILE: {path!r} is empty")
    return text


def _shown(value: Any, hint: Any) -> str:
    match value:
        case str() if value and _extra(hint).get("secret"):
            return redaction.urls(value) if "://" in value else "***"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case tuple():
            return ",".join(value)
        case _:
            return str(value)


def _given(environ: Mapping[str, str], variable: str, hint: Any) -> Any:
    extra = _extra(hint)
    raw = environ.get(variable)
    content = secret_in_file(environ, variable) if extra.get("from_file") else None
    if content is not None:
        text = content if extra.get("blanks_count") else content.strip()
        variable = f"{variable}_FILE"  # in an error
    elif raw is None:
        return None
    else:
        text = raw.strip("\r\n") if extra.get("blanks_count") else raw.strip()
    if not text and not extra.get("empty_counts"):
        return None
    try:
        text.encode()  # bytes that are not UTF-8 are lone surrogates here, which cannot be sent anywhere
        return msgspec.convert(_parsed(text, hint), hint, strict=False)
    except (ValueError, msgspec.ValidationError) as error:
        shown = "its value (not shown)" if extra.get("secret") else repr(text)
        raise SettingsError(f"{variable}: {shown} is not {_expected(hint, error)}") from None


def _parsed(text: str, hint: Any) -> Any:
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if bare is bool:
        return _boolean(text.lower())
    if get_origin(bare) is Literal:
        return {"warning": "warn"}.get(text.lower(), text.lower())
    if get_origin(bare) is tuple:
        return _domains(text)
    return text


def _domains(text: str) -> tuple[str, ...]:
    domains = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if text and not domains:  # an empty list could mean that all are allowed
        raise ValueError(text)
    return domains


def _boolean(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(text)


def _expected(hint: Any, error: Exception) -> str:
    """Return the end of a message that begins "VARIABLE: value is not"."""
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    meta = _meta(hint)
    if bare is bool:
        return "true or false"
    if get_origin(bare) is Literal:
        return "one of " + ", ".join(get_args(bare))
    if isinstance(error, UnicodeEncodeError):  # its message quotes the value
        return "UTF-8"
    if get_origin(bare) is tuple:
        return "a list that names a domain"
    if bare in {int, float}:
        bounds = (("from", meta.ge), ("above", meta.gt), ("up to", meta.le))
        limits = [f"{word} {bound}" for word, bound in bounds if bound is not None]
        return " ".join(["a whole number" if bare is int else "a number", *limits])
    return meta.description or f"a text that matches {meta.pattern}"


def _meta(hint: Any) -> msgspec.Meta:
    metas = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    return metas[0] if metas else msgspec.Meta()


def _extra(hint: Any) -> Mapping[str, Any]:
    return _meta(hint).extra or {}
