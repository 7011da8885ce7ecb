"""Fauxpas: what stands in for the real thing. The mock Discord, and later the shell that speaks as any tenant."""
