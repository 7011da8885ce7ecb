"""Runs Luau templates, written by strangers, in answer to Discord events. docs/ARCHITECTURE.md has the rooms."""
