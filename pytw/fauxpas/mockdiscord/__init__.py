"""The mock Discord: gateway and REST for one bot, good enough that unmodified client libraries work against it.

In dev mode it is the upstream of `tw serve`; `tw mock serve` runs it alone; tests use it as the other side of the wire.
"""

from pytw.fauxpas.mockdiscord.ids import dm_channel, general_channel
from pytw.fauxpas.mockdiscord.server import BOT_ID, TOKEN, MockDiscord
from pytw.fauxpas.mockdiscord.world import VISITOR_ID

__all__ = ["BOT_ID", "TOKEN", "VISITOR_ID", "MockDiscord", "dm_channel", "general_channel"]
