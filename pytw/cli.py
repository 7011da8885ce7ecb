"""The command line: `tw`, and `template-worker` for the reference's own command lines.

Commands are imported when they run, so that `tw --help` is quick. Whatever the operator can mend ends in one line on stderr
and an exit code of its own (errors.py); a traceback is a bug.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

import click

from pytw.commands.shown import shown
from pytw.errors import ConfigError, PytwError, StorageRefused

#: Name -> (module and attribute, what `tw --help` says).
COMMANDS = {
    "serve": ("pytw.commands.serve:serve", "Run the whole system: workers, API, gateway."),
    "template": (
        "pytw.commands.template:template",
        "Put, list, show, remove, pause and resume templates; their versions.",
    ),
    "shop": ("pytw.commands.shop:shop", "The shop's templates: publish, review and withdraw."),
    "tenant": ("pytw.commands.tenant:tenant", "Show, ban and unban a guild or a user."),
    "secret": ("pytw.commands.secret:secret", "Set, list and remove secrets of a template."),
    "check": ("pytw.commands.check:check", "Tell what is wrong with a template, without a server."),
    "run": ("pytw.commands.run:run", "Run one event through a template on this machine."),
    "mock": ("pytw.commands.mock:mock", "The mock Discord: say something, or run it alone."),
    "kv": ("pytw.commands.kv:kv", "Get, set, find and remove keys of a guild or a user."),
    "globalkv": ("pytw.commands.globalkv:globalkv", "What is published for everybody: review, price and sell it."),
    "object": ("pytw.commands.object:object_", "List, get, put and remove the files of a guild or a user."),
    "config": ("pytw.commands.config:config", "Show or check the configuration."),
    "migrate": ("pytw.commands.migrate:migrate", "Bring the database's schema up to date."),
    "db": ("pytw.commands.db:db", "Dump, restore and look at the database."),
    "register": ("pytw.commands.later:register", "Register the bot's commands with Discord (a later version)."),
    "shell": ("pytw.commands.later:shell", "An interactive Luau shell (a later version)."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"no such command: {args[0]}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        from pytw.luau import LUAU_VERSION

        try:
            release = version("pytw")
        except PackageNotFoundError:
            release = "from a source tree"
        click.echo(f"tw {release} (Luau {LUAU_VERSION}, Python {sys.version.split()[0]})")
        ctx.exit()


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the versions."
)
def root() -> None:
    """Runs Luau templates in answer to Discord events. `tw serve` starts everything, with nothing configured."""


def _fail(name: str, text: str, code: int) -> int:
    click.echo(shown(f"{name}: " + " ".join(text.split())), err=True)
    return code


def _run(command: click.Command, name: str, args: Sequence[str] | None) -> int:
    """Run *command*; returns the exit code that its end deserves."""
    try:
        code = command.main(args, prog_name=name, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return error.exit_code
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else name
        text = error.format_message().replace("a valid integer range", "a whole number")
        return _fail(where, text[:1].lower() + text[1:], error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except PytwError as error:
        return _fail(name, str(error), error.exit_code if isinstance(error, ConfigError) else 1)
    except UnicodeEncodeError as error:
        if not any("\ud800" <= char <= "\udfff" for char in error.object):
            raise
        return _fail(name, f"{error.object[max(error.start - 20, 0) : error.end + 20]!a} is not UTF-8 text", 2)
    except BrokenPipeError:
        # Whoever read our output left; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            return _fail(name, f"{error.filename or 'disk'}: {os.strerror(error.errno)}", StorageRefused.exit_code)
        raise


def main(args: Sequence[str] | None = None) -> None:
    """`tw`."""
    sys.exit(_run(root, "tw", args))


def template_worker(args: Sequence[str] | None = None) -> None:
    """`template-worker`: the reference's documented command lines as they stand."""
    from pytw.commands.serve import serve

    sys.exit(_run(serve, "template-worker", args))


if __name__ == "__main__":
    main()
