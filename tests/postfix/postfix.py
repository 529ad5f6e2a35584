# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Debian's Postfix in a directory of its own, strict about HELO names, that delivers into a Maildir. Needs root.

Sources: postconf(5), master(5), POSTSCREEN_README.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.stack.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROGRAM = "postfix"
DELIVERY_SECONDS = 20.0

_MAIN = """
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {home}/postfix.log
maillog_file_prefixes = {home}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mail.example.net
mydestination =
mynetworks = 127.0.0.0/8
smtpd_helo_required = yes
smtpd_helo_restrictions = reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_tls_security_level = none
virtual_mailbox_domains = example.com
virtual_mailbox_base = {home}/mail
virtual_mailbox_maps = static:inbox/
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
message_size_limit = 20480000
postscreen_access_list =
postscreen_greet_wait = 1s
postscreen_pipelining_enable = yes
postscreen_pipelining_action = enforce
"""
_MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
127.0.0.1:{screened_port} inet n - n - 1 postscreen
smtpd pass - - n - - smtpd
dnsblog unix - - n - 0 dnsblog
tlsproxy unix - - n - 0 tlsproxy
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """A running instance: `port` takes mail at once, `screened_port` is behind postscreen."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.screened_port = free_port()
        self._home = home
        self._inbox = home / "mail" / "inbox" / "new"

    @property
    def log(self) -> str:
        """Everything Postfix has logged."""
        file = self._home / "postfix.log"
        return file.read_text() if file.exists() else ""

    async def mails(self, count: int) -> list[bytes]:
        """Return the mails in the Maildir, with CRLF line ends, once there are so many."""
        try:
            async with asyncio.timeout(DELIVERY_SECONDS):
                while len(found := self._delivered()) < count:
                    await asyncio.sleep(0.1)
        except TimeoutError:
            message = f"{len(found)} of {count} mails\n{self.log[-4000:]}"
            raise TimeoutError(message) from None
        return found

    def configure(self) -> None:
        """Write the configuration and the directories."""
        user = pwd.getpwnam("postfix")
        for name in ("queue", "data", "mail"):
            (self._home / name).mkdir()
        for name in ("data", "mail"):
            os.chown(self._home / name, user.pw_uid, user.pw_gid)
        self._home.chmod(0o755)
        main = _MAIN.format(home=self._home, uid=user.pw_uid, gid=user.pw_gid)
        (self._home / "main.cf").write_text(main)
        (self._home / "master.cf").write_text(_MASTER.format(port=self.port, screened_port=self.screened_port))

    async def run(self, verb: str) -> None:
        """Run `postfix start` or `postfix stop` for this instance."""
        process = await asyncio.create_subprocess_exec(
            PROGRAM, "-c", str(self._home), verb, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        if process.returncode:
            message = f"postfix {verb}: {output.decode()}\n{self.log}"
            raise RuntimeError(message)

    async def wait_until_listening(self) -> None:
        """Return when both ports accept connections."""
        for port in (self.port, self.screened_port):
            async with asyncio.timeout(10):
                while not await _accepts(port):
                    await asyncio.sleep(0.05)

    def _delivered(self) -> list[bytes]:
        files = sorted(self._inbox.glob("*"), key=lambda file: file.stat().st_mtime_ns)
        return [file.read_bytes().replace(b"\n", b"\r\n") for file in files]  # Postfix stores LF


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def why_not() -> str:
    """Return why Postfix cannot be run here; empty if it can."""
    if not shutil.which(PROGRAM):
        return "Postfix is not installed (Debian: apt-get install postfix)"
    return "" if os.geteuid() == 0 else "Postfix needs root"


@asynccontextmanager
async def running() -> AsyncIterator[Postfix]:
    """Run an instance for the block."""
    with tempfile.TemporaryDirectory(prefix="postfix-", dir="/var/tmp") as home:
        server = Postfix(Path(home))
        server.configure()
        await server.run("start")
        try:
            await server.wait_until_listening()
            yield server
        finally:
            await server.run("stop")
