"""The worker room, tested with its real engines; only storage and Discord are stand-ins in memory."""
