# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The NATS client protocol as frames: a control line and, for messages, headers and payload. No sockets."""

from __future__ import annotations

import msgspec

_END = b"\r\n"
_WITH_PAYLOAD = frozenset({b"PUB", b"HPUB", b"MSG", b"HMSG"})

NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"


class Frame(msgspec.Struct, frozen=True):
    """One operation of either side, byte for byte."""

    line: bytes
    body: bytes | None = None

    @property
    def words(self) -> list[bytes]:
        """The control line's parts, the verb first."""
        return self.line.split()

    @property
    def verb(self) -> bytes:
        """The operation's name in capitals."""
        return self.line.split(maxsplit=1)[0].upper() if self.line.strip() else b""

    def encode(self) -> bytes:
        """The frame's bytes."""
        return self.line + _END if self.body is None else self.line + _END + self.body + _END


class Publication(msgspec.Struct, frozen=True):
    """A publication of a client; headers are complete, from NATS/1.0 to the empty line."""

    subject: str
    reply: str
    payload: bytes
    headers: bytes = b""

    def encode(self) -> bytes:
        """Return it as PUB or HPUB."""
        verb = b"HPUB" if self.headers else b"PUB"
        reply = f" {self.reply}" if self.reply else ""
        return b"%s %s%s %s" % (verb, self.subject.encode(), reply.encode(), _sized(self.headers, self.payload))


class Answer(msgspec.Struct, frozen=True):
    """The reply to a request of a client."""

    payload: bytes = b""
    headers: bytes = b""

    def encode(self, subject: str, sid: str) -> bytes:
        """Return it as MSG or HMSG."""
        verb = b"HMSG" if self.headers else b"MSG"
        return b"%s %s %s %s" % (verb, subject.encode(), sid.encode(), _sized(self.headers, self.payload))


class Delivery(msgspec.Struct, frozen=True):
    """A message from the server to a client; headers are complete, from NATS/1.0 to the empty line."""

    subject: str
    sid: str
    reply: str
    payload: bytes
    headers: bytes = b""

    def encode(self) -> bytes:
        """Return it as MSG or HMSG."""
        verb = b"HMSG" if self.headers else b"MSG"
        words = " ".join(word for word in (self.subject, self.sid, self.reply) if word).encode()
        return b"%s %s %s" % (verb, words, _sized(self.headers, self.payload))


class Parser:
    """Splits the bytes of one direction into frames."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Add bytes; return the frames that are complete now."""
        self._received += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        end = self._received.find(_END)
        if end < 0:
            return None
        frame = Frame(bytes(self._received[:end]))
        stop = end + len(_END)
        if frame.verb in _WITH_PAYLOAD:
            start, stop = stop, stop + int(frame.words[-1]) + len(_END)
            if len(self._received) < stop:
                return None
            frame = Frame(frame.line, bytes(self._received[start : stop - len(_END)]))
        del self._received[:stop]
        return frame


def publication(frame: Frame) -> Publication:
    """Read a PUB or HPUB."""
    names, headers, payload = _parts(frame)
    reply = names[1] if len(names) > 1 else ""
    return Publication(subject=names[0], reply=reply, payload=payload, headers=headers)


def delivery(frame: Frame) -> Delivery:
    """Read a MSG or HMSG."""
    names, headers, payload = _parts(frame)
    reply = names[2] if len(names) > 2 else ""
    return Delivery(subject=names[0], sid=names[1], reply=reply, payload=payload, headers=headers)


def _parts(frame: Frame) -> tuple[list[str], bytes, bytes]:
    """Return the words between verb and sizes, the headers and the payload."""
    words = [word.decode() for word in frame.words]
    with_headers = frame.verb in {b"HPUB", b"HMSG"}
    body = frame.body or b""
    split = int(words[-2]) if with_headers else 0
    return words[1 : -2 if with_headers else -1], body[:split], body[split:]


def _sized(headers: bytes, payload: bytes) -> bytes:
    total = len(headers) + len(payload)
    sizes = b"%d %d" % (len(headers), total) if headers else b"%d" % total
    return sizes + _END + headers + payload + _END
