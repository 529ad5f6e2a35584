# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Runs a process from start to exit: log, probes, NATS, serve; on a signal, a stop within a time limit."""

from __future__ import annotations

import asyncio
import logging
import platform
from typing import TYPE_CHECKING, Final

from shared import __version__
from shared.errors import StoreUnavailable
from shared.nats import connection, credentials
from shared.service import log, memory, signals
from shared.service.probes import Probes
from shared.service.settings import SettingsError
from shared.telemetry.spans import NO_SPANS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from shared.nats.connection import Connection
    from shared.service.settings import ProcessSettings
    from shared.telemetry.spans import Spans
    from shared.telemetry.tracing import Tracing

    Serve = Callable[["Life", Connection], Awaitable[None]]
    """Serves requests until `Life.stopping` is set."""

events = logging.getLogger(__name__)

DRAIN_SHARE: Final = 0.7  # of the time limit of a stop; the rest is for cancelling the work that has not ended


class Life:
    """The state of a running process: whether it serves or stops, its connection, spans, metrics and exit status."""

    def __init__(self) -> None:
        """Begin as a process that does not serve yet."""
        self.stopping = asyncio.Event()
        self.connection: Connection | None = None
        self.spans: Spans = NO_SPANS
        self._metrics: list[Callable[[], bytes]] = []
        self.is_serving = False
        self.status = 0

    def serving(self) -> None:
        """Mark the process as serving."""
        self.is_serving = True
        memory.collect_less_often()

    def fail(self) -> None:
        """Begin a stop as a signal does, and end with status 1."""
        self.status = 1
        self.stopping.set()

    def expose(self, metrics: Callable[[], bytes]) -> None:
        """Add metrics to /metrics; `metrics` is called at each scrape."""
        self._metrics.append(metrics)

    def metrics(self) -> bytes:
        """Return the text of /metrics."""
        return b"".join(metrics() for metrics in self._metrics)

    @property
    def obstacle(self) -> str:
        """Why /readyz is 503; empty while the process serves and NATS passes it its requests."""
        if self.stopping.is_set():
            return "stopping"
        if self.connection is None:
            return "NATS is not connected"
        return self.connection.obstacle or ("" if self.is_serving else "not serving yet")


def run(name: str, settings: ProcessSettings, serve: Serve, environ: Mapping[str, str]) -> int:
    """Run a process and return its exit status; OpenTelemetry's variables come from `environ`."""
    memory.keep_freed_blocks()
    writer = log.configure(settings.log_level, add_source=settings.log_add_source)
    life = Life()
    life.expose(lambda: _process_metrics(life, name, writer.lost))
    return _event_loop(_live(life, name, settings, serve, environ))


def refuse(error: SettingsError) -> int:
    """Log which variable is invalid, as the only log line, and return the exit status."""
    log.configure("info", add_source=False)
    events.error("start.failed", extra={"error": str(error)})
    return 1


def _event_loop(main: Coroutine[object, object, int]) -> int:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


async def _live(life: Life, name: str, settings: ProcessSettings, serve: Serve, environ: Mapping[str, str]) -> int:
    tracing = None
    with signals.setting(life.stopping, asyncio.get_running_loop()):
        try:
            tracing = _tracing(environ, name)
            life.spans = tracing or NO_SPANS
            async with Probes(settings.port, lambda: life.obstacle, life.metrics):
                await _until_stopped(life, _connect_and_serve(life, name, settings, serve), settings)
        except (SettingsError, StoreUnavailable, OSError) as error:
            advice = error.advice if isinstance(error, StoreUnavailable) else ""
            events.error("start.failed", extra={"error": f"{error}: {advice}" if advice else str(error)})
            return 1
        finally:
            if tracing:
                await tracing.aclose()
    events.info("process.stopped", extra={"status": life.status})
    return life.status


def _process_metrics(life: Life, name: str, lines_lost: int) -> bytes:
    """Return the metrics that exist before the process serves."""
    from shared.telemetry.exposition import (  # noqa: PLC0415 - brings the Prometheus client
        counter,
        gauge,
        of_the_interpreter,
        text,
    )

    is_connected = life.connection is not None and not life.connection.obstacle
    versions = __version__, platform.python_version()
    prefix = name.removeprefix("lfx-").replace("-", "_")
    return text(
        [
            gauge(f"{prefix}_build_info", "1; the labels are versions.", ("version", "python_version"), {versions: 1}),
            gauge(f"{prefix}_nats_connected", "1 while NATS passes it its requests.", (), {(): is_connected}),
            counter(f"{prefix}_log_lines_lost", "Log lines that could not be written.", (), {(): lines_lost}),
            *of_the_interpreter(),
        ]
    )


def _tracing(environ: Mapping[str, str], name: str) -> Tracing | None:
    """Return the tracing if the variables ask for it; only then is OpenTelemetry imported (50 ms, 6 MB)."""
    for variable, instead in (("OTEL_METRICS_EXPORTER", "/metrics"), ("OTEL_LOGS_EXPORTER", "standard output")):
        if (environ.get(variable, "").strip().lower() or "none") != "none":
            events.warning("otel.not_exported", extra={"variable": variable, "instead": instead})
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "none"
    if exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if exporter != "otlp":
        raise SettingsError(f"OTEL_TRACES_EXPORTER: {exporter!r} is not one of otlp, none")
    _check_numbers(environ)
    try:
        from shared.telemetry import tracing  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(f"OTEL_TRACES_EXPORTER: otlp needs the extra `otel` ({error})") from error
    return tracing.configured(environ, name)


def _check_numbers(environ: Mapping[str, str]) -> None:
    """Refuse wrong numbers: some end the import of OpenTelemetry, and others are logged as errors and ignored."""
    for variable, value in environ.items():
        is_limit = variable.startswith("OTEL_") and variable.endswith("_LIMIT")
        text = value.strip().lower()
        if not is_limit and not variable.startswith("OTEL_BSP_"):
            continue
        if text and not (text.isascii() and text.isdecimal()) and not (is_limit and text == "unset"):
            raise SettingsError(f"{variable}: {value!r} is not a whole number")


async def _connect_and_serve(life: Life, name: str, settings: ProcessSettings, serve: Serve) -> None:
    async with connection.opened(settings, name) as opened:
        life.connection = opened
        events.info("nats.connected", extra={"server": opened.server})
        if settings.nats_creds and (problem := credentials.problem(settings.nats_creds)):
            error = f"NATS_CREDS: {problem}; this server has asked for no credentials"
            events.warning("nats.error", extra={"error": error})
        await serve(life, opened)


async def _until_stopped(life: Life, work: Coroutine[object, object, None], settings: ProcessSettings) -> None:
    """Return when the work has ended, or was cancelled at the time limit of the stop; raise the error of the work."""
    task = asyncio.create_task(work)
    stopping = asyncio.create_task(life.stopping.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not task.done():
        events.info("process.stopping")
        limit = settings.shutdown_timeout_seconds
        if life.is_serving:  # before that there are no requests to finish
            await asyncio.wait({task}, timeout=limit * DRAIN_SHARE)
        task.cancel()
        await asyncio.wait({task}, timeout=limit * (1 - DRAIN_SHARE))
    if task.done() and not task.cancelled():
        task.result()
