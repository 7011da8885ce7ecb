"""The rules of every host call that a worker answers."""

import msgspec

from pytw.worker.context.operation import Bucket
from pytw.worker.context.rates import plugin_rates
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord
from .workerlike_contract import spec

#: Counted elsewhere than under their own name (spec luau-api 4.1).
BUCKETS = {
    **{f"kv.{name}": Bucket("kv", "get") for name in ("getrecord", "exists", "getbyid", "getrecordbyid")},
    **{f"kv.{name}": Bucket("kv", "set") for name in ("set_expiry", "setbyid", "setexpirybyid")},
    "kv.deletebyid": Bucket("kv", "delete"),
    "kv.keys": Bucket("kv", "find"),
    "kv.list_scopes": None,
}
#: What goes by id needs what the record that it finds does.
BY_ID = {f"kv.{name}" for name in ("getbyid", "getrecordbyid", "setbyid", "setexpirybyid", "deletebyid")}
WITHOUT_CAPABILITY = {"http.send"} | BY_ID


def worker(**told: object) -> Worker:
    return Worker(msgspec.structs.replace(spec(), **told), MemoryDb(), MemoryDiscord())


async def test_every_call_is_counted_under_its_own_name():
    found = {name: operation.bucket for name, operation in worker().context._operations.items()}
    assert found == {name: BUCKETS.get(name, Bucket(*name.split("."))) for name in found}
    assert {bucket.plugin for bucket in found.values() if bucket} == plugin_rates(compat=False).keys()


async def test_every_call_asks_for_a_capability():
    operations = worker().context._operations
    assert {name for name, operation in operations.items() if operation.need is None} == WITHOUT_CAPABILITY


async def test_compatible_rates_are_those_of_the_reference():
    """It counts neither bans nor kicks under a name that a method has."""
    for compat in (False, True):
        rates = worker(compat_ratelimits=compat).context._rates
        assert ("create_guild_ban" in rates._plugins["discord"].buckets) is not compat
