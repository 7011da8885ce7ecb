"""Looks into a gateway frame for what routes it, without building a tree."""

from typing import final

@final
class Peek:
    """What routes a gateway frame; see `peek`."""

    @property
    def op(self) -> int:
        """The opcode; 0 is a dispatch."""
    @property
    def t(self) -> str | None:
        """The event's name as Discord spells it."""
    @property
    def s(self) -> int | None:
        """The sequence number."""
    @property
    def guild_id(self) -> int:
        """The event's guild, 0 if it has none."""
    @property
    def author_id(self) -> int:
        """Who acted, 0 if nobody is named as such."""
    @property
    def author(self) -> str | None:
        """``author_id`` as text."""
    @property
    def webhook(self) -> bool:
        """``d.webhook_id`` is set: the author is a webhook."""
    @property
    def start(self) -> int:
        """``frame[start:end]`` is the raw JSON of ``d``; an empty range if there is none."""
    @property
    def end(self) -> int: ...
    @property
    def tenant(self) -> int:
        """The 64-bit key of the tenant that the event is for: its guild, else its author as a user; 0 if nobody."""

def peek(frame: bytes) -> Peek:
    """What routes the gateway *frame*: opcode, name, sequence, guild, author, and where ``d`` is.

    Keys may come in any order; of a key that comes twice the last counts, as in any JSON library here. Quotes and
    brackets are checked, the rest of JSON is left to whoever reads ``d``.

    Raises:
        ProtocolError: the frame is cut off, its quotes or brackets do not match, or its envelope is not Discord's.
    Source: spec/discord.md 1.9.
    """
