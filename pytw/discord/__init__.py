"""Discord's REST side: requests within the rate limits, and what a message must be like.

`routes` names the calls, `buckets` explains rate limits, `safety` has the rules of messages, `rest` does the I/O.
"""

from pytw.discord.rest import DiscordRest
from pytw.discord.safety import check_message

__all__ = ["DiscordRest", "check_message"]
