"""Documented commands that this version does not have yet."""

from __future__ import annotations

import click

from pytw.errors import NotInThisVersion


def refuse(what: str, version: str) -> None:
    """Ends the command with the version that brings *what*."""
    raise NotInThisVersion(f"{what} comes with version {version}", hint="this is version 0.1")


_ANY = {"ignore_unknown_options": True, "allow_extra_args": True}


@click.command(context_settings=_ANY)
def register() -> None:
    """Register the bot's commands with Discord (a later version)."""
    refuse("register", "0.4")


@click.command(context_settings=_ANY)
def shell() -> None:
    """An interactive Luau shell (a later version)."""
    refuse("shell", "0.5")
