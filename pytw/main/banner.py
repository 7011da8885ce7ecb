"""What a newcomer sees when everything is up: where to look, whom to be, what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from pytw.config import Config, default_data_dir
from pytw.main.topology import Topology
from pytw.types import LUAU_SUFFIXES

#: A guild of the mock whose built-in welcome template answers.
GUILD = 1001001001001001001
OTHER_GUILDS = (1002002002002002002, 1003003003003003003)
USER = 2001001001001001001
#: A first template, in one line for a shell.
HELLO = (
    "return { MESSAGE = function(ctx) local m = ctx:event().data; "
    'if m.content == "!hi" then ctx.Discord:create_message({ channel_id = m.channel_id, data = { content = "Hi!" } }) end end }'
)


def command(config: Config) -> tuple[str, str]:
    """How to type `tw`, and the flags without which it would not find this server."""
    here = os.path.abspath(sys.argv[0])
    if shutil.which("tw"):
        name = "tw"
    elif os.path.basename(here) == "tw":
        name = shlex.quote(os.path.relpath(here))
    else:
        name = f"{shlex.quote(sys.executable)} -m pytw.cli"
    data_dir = os.path.abspath(os.path.expanduser(config.data_dir))
    return name, "" if data_dir == default_data_dir() else f" --data-dir {shlex.quote(data_dir)}"


def text(
    config: Config,
    topology: Topology,
    *,
    address: str,
    mock_url: str | None,
    database: str,
    console_port: int = 0,
    builtins_dir: str = "",
    loop_mode: bool = False,
) -> str:
    """The banner.

    Args:
        builtins_dir: root of another built-ins tree; what only the package's own tree answers is not suggested then.
        loop_mode: the tree dispatches templates itself, so only its author knows what they look like.
    """
    url = f"http://{address}"
    counts = [f"{n} {name}{'' if n == 1 else suffix}" for n, name, suffix in _counts(topology) if n]
    lines = [
        "",
        f"pytw serves on {url}",
        f"  workers    {' and '.join(counts)}, {topology.shards} gateway shard{'' if topology.shards == 1 else 's'}",
        f"  upstream   {f'the mock Discord of dev mode, {mock_url}' if mock_url else 'Discord'}",
        f"  database   {database}",
        f"  data       {config.data_dir}",
        f"  health     {url}/readyz   {url}/healthz   {url}/metrics",
    ]
    if console_port:
        lines.append(f"  console    127.0.0.1:{console_port} (aiomonitor; whoever reaches it owns this process)")
    lines += [f"  note       {note}" for note in _notes(builtins_dir, loop_mode=loop_mode)]
    if mock_url:
        tw, flags = command(config)
        body = f'{{"type":"MESSAGE_CREATE","guild_id":"{GUILD}","data":{{"content":"!ping"}}}}'
        guilds = ", ".join(map(str, OTHER_GUILDS))
        lines += [
            f"  play with  guild {GUILD}; also guilds {guilds}; user {USER}",
        ]
        if not builtins_dir:
            lines += [
                "",
                "Try next:",
                f"  {tw} mock say {GUILD} hello{flags}",
                f"  curl -s {url}/test/event -H 'Content-Type: application/json' -d '{body}'",
            ]
        if not loop_mode:
            lines += [
                "",
                f"{'Try' if builtins_dir else 'Then'} a template of your own. "
                "Discord's MESSAGE_CREATE is named MESSAGE for templates:",
                f"  mkdir -p hello && echo {shlex.quote(HELLO)} > hello/init.luau",
                f"  {tw} template put {GUILD} hello hello{flags}",
                f"  {tw} mock say {GUILD} '!hi'{flags}",
            ]
    lines.append("")
    return "\n".join(lines)


def _notes(builtins_dir: str, *, loop_mode: bool) -> list[str]:
    """What is unusual about the built-in templates."""
    if loop_mode:
        return [f"loop mode: the tree in {builtins_dir} dispatches templates"]
    if builtins_dir and not any(path.suffix in LUAU_SUFFIXES for path in Path(builtins_dir).rglob("*")):
        return [f"no Luau files in {builtins_dir}: there are no built-in templates"]
    return []


def _counts(topology: Topology) -> list[tuple[int, str, str]]:
    return [(topology.threads, "in-process worker", "s"), (topology.processes, "worker process", "es")]
