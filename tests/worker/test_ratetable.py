"""The table of rates, as templates are promised it: calls and seconds of each limiter, and what is free of the overall one."""

import pytest

from pytw.worker.context.rates import plugin_rates

S = 1_000_000_000
OVERALL = {
    "discord": (20, 5),
    "kv": (500, 0.1),
    "globalkv": (30, 1),
    "objectstorage": (75, 1),
    "http": (3, 5),
    "runtime": (10, 1),
}
ANSWERS = {
    f"{verb}_{what}"
    for what, verbs in {
        "original_interaction_response": ("get", "edit", "delete"),
        "followup_message": ("create", "get", "edit", "delete"),
    }.items()
    for verb in verbs
}
DISCORD = {
    "create_message": (30, 10),
    "get_guild_commands": (1, 300),
    "create_guild_command": (1, 300),
    "antiraid_bulk_op": (3, 1),
    **dict.fromkeys(ANSWERS, (10, 3)),
}
BANS = {"create_guild_ban": (5, 30), "remove_guild_member": (10, 75)}


@pytest.mark.parametrize("compat", [False, True])
def test_rates_are_those_of_the_table(compat: bool):
    rates = plugin_rates(compat=compat)
    assert {name: (plugin.overall.calls, plugin.overall.period_ns / S) for name, plugin in rates.items()} == OVERALL
    own = {"discord", "runtime"}
    assert all(not plugin.buckets and not plugin.exempt for name, plugin in rates.items() if name not in own)
    assert (rates["runtime"].buckets, rates["runtime"].exempt) == ({"get_secret": (50, S)}, {"get_secret"})
    discord = rates["discord"]
    found = {name: (rate.calls, rate.period_ns / S) for name, rate in discord.buckets.items()}
    assert found == (DISCORD if compat else DISCORD | BANS)
    assert discord.exempt == ANSWERS | {"antiraid_bulk_op", "antiraid_bulk_op_wait", "create_interaction_response"}
