"""Random histories of one template against a model: what runs, what ran before, and what a removal keeps."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from pytw.errors import NotFound, RequestError
from pytw.storage.stores import Stores
from pytw.types import Draft
from tests.storage.templates_contract import GUILD

STEPS = 60


@dataclass
class Model:
    """``ran`` is what ran and was not undone, oldest first; its last is what runs while ``there``."""

    versions: list[bool] = field(default_factory=list)
    ran: list[int] = field(default_factory=list)
    there: bool = False
    removed: bool = False
    runs: int | None = None
    paused: bool = False

    def deploy(self, number: int) -> None:
        self.ran.append(number)
        self.runs, self.there, self.removed = number, True, False

    def before(self) -> int | None:
        return next((number for number in reversed(self.ran) if number != self.runs), None)


async def step(stores: Stores, model: Model, rng: random.Random) -> str:
    """One change of both. A refusal must be the model's too."""
    action = rng.choice(
        ["put", "put", "draft", "broken", "deploy", "rollback", "rollback", "remove", "undelete", "pause"]
    )
    number = rng.randint(1, len(model.versions) + 1)
    match action:
        case "put" | "draft" | "broken":
            files = {"init.luau": f"-- {rng.random()}"}
            how = {"draft": {"deploy": False}, "broken": {"error": "no"}}.get(action, {})
            model.versions.append(action != "broken")
            saved = await stores.templates.put(GUILD, Draft("t", files, events=[f"E{len(model.versions)}"], **how))  # type: ignore[arg-type]
            assert saved == len(model.versions)
            if action == "put":
                if not model.there:
                    model.paused = False
                model.deploy(saved)
            elif not model.there:
                # A draft of a name that is free: a template that runs nothing.
                model.there, model.runs, model.paused = True, None, False
        case "deploy":
            if number > len(model.versions) or not model.versions[number - 1]:
                with pytest.raises((NotFound, RequestError)):
                    await stores.versions.deploy(GUILD, "t", number)
            else:
                if not (model.there or model.removed):
                    model.paused = False
                await stores.versions.deploy(GUILD, "t", number)
                model.deploy(number)
        case "rollback":
            target = model.before() if model.there else None
            if target is None:
                with pytest.raises(NotFound):
                    await stores.versions.rollback(GUILD, "t")
            else:
                assert (await stores.versions.rollback(GUILD, "t")).version == target
                while model.ran.pop() != target:
                    pass
                model.deploy(target)
        case "remove":
            if model.there:
                await stores.templates.remove(GUILD, "t")
                model.there, model.removed = False, True
            else:
                with pytest.raises(NotFound):
                    await stores.templates.remove(GUILD, "t")
        case "undelete":
            if model.there or not model.removed:
                with pytest.raises((NotFound, RequestError)):
                    await stores.versions.undelete(GUILD, "t")
            else:
                assert (await stores.versions.undelete(GUILD, "t")).version == model.runs
                model.there, model.removed = True, False
        case "pause":
            if model.there:
                model.paused = not model.paused
                await stores.templates.set_paused(GUILD, "t", model.paused)
    return f"{action} {number}"


@pytest.mark.parametrize("seed", range(4))
async def test_history_is_what_the_model_says(stores: Stores, seed: int) -> None:
    rng, model, done = random.Random(seed), Model(), []
    for _ in range(STEPS):
        done.append(await step(stores, model, rng))
        if not model.there:
            assert await stores.templates.list(GUILD) == [], done
            continue
        found = await stores.templates.get(GUILD, "t")
        assert (found.version, found.paused) == (model.runs, model.paused), done
        if model.runs is not None:
            assert found.listens == [f"E{model.runs}"], done
            runs = [version.number for version in await stores.versions.list(GUILD, "t", limit=500) if version.runs]
            assert runs == [model.runs], done
