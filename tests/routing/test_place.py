from hypothesis import given
from hypothesis import strategies as st

from pytw.routing import vm_thread_of, worker_of
from pytw.types import ID_MAX, Id

ids = st.integers(0, ID_MAX)


def test_documented_formula() -> None:
    assert worker_of(410000000000000001, 4) == (410000000000000001 >> 22) % 4
    assert vm_thread_of(410000000000000001, 4, 3) == ((410000000000000001 >> 22) // 4) % 3


@given(ids, st.integers(1, 64), st.integers(1, 16))
def test_users_and_guilds_are_placed_alike(snowflake: int, workers: int, threads: int) -> None:
    guild, user = Id.guild(snowflake).key, Id.user(snowflake).key
    assert worker_of(guild, workers) == worker_of(user, workers) == (snowflake >> 22) % workers
    assert vm_thread_of(guild, workers, threads) == vm_thread_of(user, workers, threads) < threads


def test_guild_events_arrive_at_the_worker_of_their_shard() -> None:
    """With a shard count that is a multiple of the workers, shard modulo workers is the owner."""
    for snowflake in range(0, 1 << 30, 12_345_678):
        shard = (snowflake >> 22) % 12
        assert shard % 4 == worker_of(snowflake, 4)
