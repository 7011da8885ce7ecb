"""The gateway side of a worker: shards that stay connected, and what they hand on.

`session` knows the protocol, `inflate` unpacks, `intake` routes, `cursor` remembers what is done, `shard` does the I/O.
`sandwich` asks the Sandwich proxy (a gateway cache in front of Discord, named in the reference) for state.
"""

from pytw.gateway.sandwich import Sandwich
from pytw.gateway.shard import GatewaySpec, Shard

__all__ = ["GatewaySpec", "Sandwich", "Shard"]
