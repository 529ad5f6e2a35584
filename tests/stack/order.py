# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The order of the tests: at the end of a run no worker is alone with a long file.

`--dist worksteal` gives each worker an equal number of consecutive tests. Later an idle worker takes the second half
of the longest queue. So the longest files are shared among the workers, and each worker begins with its share.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

# The files that take longest, and roughly how many seconds; a figure only decides which worker begins with the file.
SECONDS: Final = {
    "tests/bench/test_bench.py": 75,
    "tests/test_packaging.py": 35,
    "tests/chaos/test_chaos.py": 35,
    "tests/relay/test_failure_replies.py": 26,
    "tests/faults/test_faults.py": 25,
    "tests/tracker/commands/retention/test_command.py": 20,
    "tests/charts/test_alerts.py": 20,
    "tests/relay/commands/mailing/test_run.py": 20,
    "tests/acceptance/test_faults.py": 20,
    "tests/relay/records/test_index_writer_faults.py": 20,
    "tests/relay/smtp/test_delivery_refusals.py": 20,
    "tests/relay/smtp/test_closing.py": 20,
    "tests/acceptance/test_events.py": 18,
    "tests/relay/records/test_key_undone.py": 16,
    "tests/relay/records/test_idempotency_store.py": 16,
    "tests/relay/records/test_record_writer.py": 14,
    "tests/relay/records/test_index_writer.py": 14,
    "tests/shared/nats/test_client_tls_first.py": 14,
    "tests/shared/commands/test_output.py": 12,
    "tests/shared/kv/test_batch_get.py": 12,
    "tests/acceptance/test_log_output.py": 12,
    "tests/acceptance/test_traces.py": 12,
    "tests/acceptance/test_cluster.py": 12,
    "tests/acceptance/test_versions.py": 12,
    "tests/acceptance/test_send_rate.py": 12,
    "tests/relay/smtp/test_lost_connection.py": 12,
    "tests/relay/smtp/test_delivery.py": 12,
    "tests/test_demo.py": 12,
}


def by_worker(tests: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """Return the tests in the order in which `worksteal` shares them among so many workers."""
    files = defaultdict(list)
    for test in tests:
        files[test.location[0]].append(test)
    shares: list[list[pytest.Item]] = [[] for _ in range(workers)]
    seconds = [0] * workers
    for file in sorted(files.keys() & SECONDS, key=lambda file: (-SECONDS[file], file)):
        least = seconds.index(min(seconds))
        shares[least] += files.pop(file)
        seconds[least] += SECONDS[file]
    others = [test for of_file in files.values() for test in of_file]
    ordered: list[pytest.Item] = []
    for number, share in enumerate(shares):
        size = (len(tests) - len(ordered)) // (workers - number)
        filling = max(0, size - len(share))
        ordered += [*share, *others[:filling]]
        del others[:filling]
    return ordered
