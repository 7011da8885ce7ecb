"""Rate-limit windows of the mock's REST side: one per route and major parameter, with Discord's headers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

WINDOWS_MAX = 50_000


@dataclass(slots=True)
class _Window:
    ends: float
    used: int = 0


class RateLimits:
    """Fixed windows of *limit* requests in *window_s* seconds."""

    def __init__(self, *, clock: Callable[[], float], wall_s: Callable[[], float], limit: int, window_s: float) -> None:
        self._clock = clock
        self._wall_s = wall_s
        self._limit = limit
        self._window_s = window_s
        self._windows: dict[tuple[str, str], _Window] = {}

    def take(self, route: str, major: str) -> tuple[bool, float, dict[str, str]]:
        """Use one request: whether it is allowed, seconds until the window ends, and the headers that say so."""
        now, key = self._clock(), (route, major)
        window = self._windows.get(key)
        if window is None or window.ends <= now:
            if len(self._windows) >= WINDOWS_MAX:
                self._windows = {k: w for k, w in self._windows.items() if w.ends > now}
            window = self._windows[key] = _Window(now + self._window_s)
        allowed = window.used < self._limit
        if allowed:
            window.used += 1
        left_s = max(window.ends - now, 0.001)
        headers = {
            "X-RateLimit-Limit": str(self._limit),
            "X-RateLimit-Remaining": str(self._limit - window.used),
            "X-RateLimit-Reset": f"{self._wall_s() + left_s:.3f}",
            "X-RateLimit-Reset-After": f"{left_s:.3f}",
            "X-RateLimit-Bucket": hashlib.sha256(route.encode()).hexdigest()[:32],
        }
        return allowed, left_s, headers
