"""``ctx.Runtime:get_secret``: what operators gave a template to keep, for that template alone.

It is decrypted in the master. Before a script has it, the scrubber has: no log line or error of the tenant shows it.
"""

from __future__ import annotations

from pytw.errors import RequestError
from pytw.limits import SECRET_NAME_BYTES_MAX
from pytw.worker.context import answers
from pytw.worker.context.call import HostCall
from pytw.worker.context.operation import Bucket, Need, Operation
from pytw.worker.scrub import Scrubber
from pytw.workerdb import WorkerDb


class Secrets:
    """``runtime.get_secret``."""

    def __init__(self, db: WorkerDb, scrubber: Scrubber) -> None:
        self._db = db
        self._scrubber = scrubber

    def operations(self) -> dict[str, Operation]:
        return {
            "runtime.get_secret": Operation(handler=self.get_secret, need=_need, bucket=Bucket("runtime", "get_secret"))
        }

    async def get_secret(self, call: HostCall) -> bytes:
        name = _name(call)
        value = await self._db.secret_get(call.tenant, call.template, name)
        if value is None:
            return answers.NIL
        self._scrubber.learn(call.tenant, name, value)
        return answers.one(value)


def _name(call: HostCall) -> str:
    name = call.text(0, "the name of a secret")
    if len(name.encode()) > SECRET_NAME_BYTES_MAX:
        raise RequestError(f"the name of a secret has at most {SECRET_NAME_BYTES_MAX} bytes")
    return name


def _need(call: HostCall) -> Need:
    name = _name(call)
    return Need(("secret:*", f"secret:{name}"), f"secret `{name}` is not allowed in this template context")


__all__ = ["Secrets"]
