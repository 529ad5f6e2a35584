# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Console scripts as a user starts them."""

from __future__ import annotations

import pytest

from tests.stack import console

SCRIPT = """
import json, os, socket
print(json.dumps({"msg": "email.sent", "names": sorted(os.environ)}), flush=True)
print("not json", flush=True)
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    client, _ = server.accept()
    client.recv(4096)
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nready")
    client.close()
"""


async def test_console_runs_a_script_with_the_given_environment_only() -> None:
    async with console.running("python", "-c", SCRIPT, env={"GIVEN": "1"}) as process:
        await process.wait_until_ready()
        record = await process.wait_for_log("email.sent")
        assert set(record["names"]) - {"LC_CTYPE"} == {"GIVEN", "PATH", "PORT"}
        assert await process.get("/livez") == (200, "ready")
        assert "not json" in process.output
        process.terminate()
        assert await process.wait() == -15


async def test_the_error_shows_the_output_of_a_script_that_ended_early() -> None:
    async with console.running("python", "-c", "raise SystemExit('no settings')") as process:
        with pytest.raises(RuntimeError, match="no settings"):
            await process.wait_until_ready()
        assert await process.wait() == 1
