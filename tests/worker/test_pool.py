"""`WorkerPool`: one formula over all members."""

import asyncio

import pytest

from pytw.types import USER_BIT
from pytw.worker.pool import WorkerPool


class Member:
    def __init__(self, place: int, broken: bool = False) -> None:
        self.id = place
        self.broken = broken
        self.killed = False

    def __len__(self) -> int:
        return 1

    async def kill(self) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise OSError("does not end")
        self.killed = True


def test_guilds_and_users_take_the_same_way():
    pool = WorkerPool([Member(i) for i in range(3)])
    for milliseconds in range(7):
        tenant = milliseconds << 22 | 5
        assert pool.of(tenant).id == milliseconds % 3
        assert pool.of(tenant | USER_BIT).id == milliseconds % 3


def test_members_must_stand_at_their_places():
    with pytest.raises(ValueError, match="0, 1, 2"):
        WorkerPool([Member(1), Member(0)])
    with pytest.raises(ValueError, match="0, 1, 2"):
        WorkerPool([])


async def test_member_that_does_not_end_keeps_no_other_alive():
    members = [Member(0), Member(1, broken=True), Member(2)]
    with pytest.raises(ExceptionGroup):
        await WorkerPool(members).kill()
    assert members[0].killed
    assert members[2].killed
