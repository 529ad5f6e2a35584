# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Asks for status and analytics all the time; an answer must never go back behind an earlier one."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from tests.system.requests import GET_STATUS

if TYPE_CHECKING:
    from tests.system.callers import Callers
    from tests.system.requests import Requests

PAGE = 50


class Queries:
    """One asker for each group, each with one query at a time."""

    def __init__(self, requests: Requests, callers: Callers, seed: int, pause: float) -> None:
        self.answers = 0
        self.backwards: list[str] = []
        self._requests = requests
        self._callers = callers
        self._seed = seed
        self._pause = pause
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin no other query."""
        self._stopping.set()

    async def run(self) -> None:
        """Ask until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            for group_id in self._callers.groups:
                tasks.create_task(self._ask_about(group_id))

    async def _ask_about(self, group_id: str) -> None:
        chance = random.Random(f"{self._seed} {group_id}")  # noqa: S311 - a seed is the point
        counts: dict[str, int] = {}
        page: list[str] = []
        seen: set[str] = set()
        while not self._stopping.is_set():
            counts = self._compare_counts(counts, await self._requests.analytics(group_id))
            page = self._compare_pages(group_id, page, await self._status(group_id=group_id, limit=PAGE))
            if sent := [one for one, group in self._callers.acknowledged.items() if group == group_id]:
                email_id = chance.choice(sent)
                self._compare_record(email_id, seen, await self._status(email_id=email_id))
            await asyncio.sleep(self._pause)

    async def _status(self, **request: object) -> Any:
        return await self._requests.ask(GET_STATUS, request)

    def _compare_counts(self, before: dict[str, int], answer: dict[str, Any]) -> dict[str, int]:
        if not self._is_good(answer):
            return before
        counts = {name: value for name, value in answer.items() if name != "group_id"}
        if any(counts[name] < value for name, value in before.items()):
            self.backwards.append(f"analytics of {answer['group_id']}: {counts} after {before}")
        return counts

    def _compare_pages(self, group_id: str, before: list[str], answer: Any) -> list[str]:
        """Compare the first page: emails are only added to it, behind those that are there."""
        if not self._is_good(answer):
            return before
        page = [record["email_id"] for record in answer]
        if missing := set(before) - set(page):
            self.backwards.append(f"page of {group_id} without {' '.join(sorted(missing))}")
        elif [one for one in page if one in set(before)] != before:
            self.backwards.append(f"page of {group_id} in another order")
        return page

    def _compare_record(self, email_id: str, seen: set[str], answer: Any) -> None:
        if self._is_good(answer):
            seen.add(email_id)
        elif answer and answer["error"] == "not found" and email_id in seen:
            self.backwards.append(f"status of {email_id}: not found, and it was found before")

    def _is_good(self, answer: Any) -> bool:
        if answer in ({}, None) or "error" in answer:
            return False
        self.answers += 1
        return True
