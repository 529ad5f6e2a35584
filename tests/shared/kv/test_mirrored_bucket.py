# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A mirror that answers direct gets of a bucket's stream is not believed: it may be behind, and keeps purged values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from nats.js.api import StreamConfig, StreamSource

from shared.errors import KeyMissing
from tests.stack.waiting import until

if TYPE_CHECKING:
    from nats.js.kv import KeyValue

    from shared.kv.bucket import Bucket

READS = 30  # about every second one is answered by the mirror


async def mirror(kv: KeyValue, keys: int) -> None:
    """Add a mirror as `nats kv add --mirror` does; return when it has this number of keys."""
    js = kv._js  # noqa: SLF001 - nats-py has no public name
    source = StreamSource(name="KV_b")
    config = StreamConfig(name="KV_m", mirror=source, mirror_direct=True, allow_direct=True, max_msgs_per_subject=1)
    await js.add_stream(config)

    async def copied() -> bool:
        return (await js.stream_info("KV_m")).state.messages == keys

    await until(copied)


async def test_a_purged_value_that_a_mirror_still_has_is_missing(bucket: Bucket, kv: KeyValue) -> None:
    await bucket.create("purged", b"1")
    await bucket.create("kept", b"2")
    await mirror(kv, keys=2)
    await kv._js.purge_stream("KV_b", subject="$KV.b.purged")  # noqa: SLF001 - nats-py has no public name
    for _ in range(READS):
        with pytest.raises(KeyMissing):
            await bucket.get("purged")
        assert await bucket.find("purged") is None
        assert (await bucket.get("kept")).value == await bucket.find("kept") == b"2"
        assert set(await bucket.get_many(["purged", "kept"])) == {"kept"}
        matching = await bucket.get_matching("*")
        assert matching is None or set(matching) == {"kept"}
