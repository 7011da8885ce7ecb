"""What only the master does: supervise workers, hand out identify slots, keep blame and forward events."""
