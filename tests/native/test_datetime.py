"""``@antiraid/datetime`` agrees with Python's own calendar, and no number breaks it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from pytw.types import Outcome

# Zones whose rules have not changed lately, so that two versions of the tz database agree.
ZONES = [
    "UTC",
    "America/New_York",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Asia/Tokyo",
    "Australia/Lord_Howe",
    "Europe/London",
    "Pacific/Apia",
]
SECONDS = random.Random(5).choices(range(0, 2_100_000_000), k=300)

SHOW = """
local datetime = require("@antiraid/datetime")
local zone, seen = datetime.new("ZONE"), {}
for i, seconds in {SECONDS} do
    local at = zone:fromTime(seconds)
    local first, second = zone:tzToUtc(at.year, at.month, at.day, at.hour, at.minute, at.second, true)
    assert(first == at or second == at)
    seen[i] = {tostring(at), at:format("%a %d %b %Y %j %W %z %Z"), (at.base_offset + at.dst_offset).seconds, second ~= nil}
end
return seen
"""

# Every function and operator with every pair of these: what it answers is a value or an error.
TRY_ALL = """
local datetime = require("@antiraid/datetime")
local numbers = {0, 1, -1, 0.5, 0/0, 1/0, -1/0, 2^53, -2^63, 2^63, 1e300, "9223372036854775807", "-9223372036854775808",
    "8210266876799", "-8334601228800", 262142, -262143, 60, "", "x"}
local zones = {datetime.UTC, datetime.new("Asia/Tokyo"), datetime.new("America/New_York"), datetime.new("Pacific/Apia")}
local values, tried, worked = {}, 0, 0
local function try(f, ...)
    tried += 1
    local ok, value = pcall(f, ...)
    if ok then
        worked += 1
        assert(#tostring(value) > 0)
        if (typeof(value) == "DateTime" or typeof(value) == "TimeDelta") and #values < 200 then table.insert(values, value) end
    else
        assert(type(value) == "string" and not string.find(value, "panic", 1, true), value)
    end
end
for _, n in numbers do
    for name, f in datetime do
        if type(f) == "function" then try(f, n) end
    end
    for _, zone in zones do
        for _, name in {"fromString", "fromTime", "fromTimeMillis", "fromTimeMicros", "fromTimeNanos"} do try(zone[name], zone, n) end
        for _, m in numbers do
            for _, name in {"utcToTz", "tzToUtc"} do
                try(zone[name], zone, n, m, 1, 0, 0, 0, true)
                try(zone[name], zone, n, 1, 1, m, m, m, true)
            end
            for _, name in {"timeUtcToTz", "timeTzToUtc"} do try(zone[name], zone, n, m, n) end
        end
    end
end
local operators = {
    function(a, b) return a + b end, function(a, b) return a - b end, function(a, b) return a == b end,
    function(a, b) return a < b end, function(a, b) return a <= b end,
    function(a, b) return a:duration_since(b) end, function(a, b) return a:with_timezone(b.timezone) end,
}
local known = table.clone(values)
for _, a in known do
    for _, b in known do
        for _, operator in operators do try(operator, a, b) end
    end
    for _, zone in zones do try(function() return a:with_timezone(zone) end) end
    for _, field in {"nanos", "micros", "year", "timestamp_millis", "base_offset", "as_secs"} do
        try(function() return a[field] end)
    end
    try(function() return a:format("%c %+ %G %s %C %Z") end)
    try(function() return a:offset_string() end)
end
return {tried, worked}
"""


@pytest.mark.parametrize("zone", ZONES)
def test_calendar_and_clocks_are_those_of_python(driver, zone):
    seen = driver.ok(SHOW.replace("ZONE", zone).replace("SECONDS", ",".join(map(str, SECONDS))))
    for seconds, (text, formatted, offset, twice) in zip(SECONDS, seen, strict=True):
        at = datetime.fromtimestamp(seconds, ZoneInfo(zone))
        span = at.utcoffset()
        assert text == at.isoformat()
        assert formatted == at.strftime("%a %d %b %Y %j %W %z %Z")
        assert span is not None and offset == span.total_seconds()
        assert twice == (at.replace(fold=0).utcoffset() != at.replace(fold=1).utcoffset())


def test_sums_are_those_of_python(driver):
    numbers = random.Random(7)
    cases = [(numbers.randrange(0, 2**31), numbers.randrange(-(10**15), 10**15)) for _ in range(500)]
    pairs = ",".join(f"{{{a},{b}}}" for a, b in cases)
    seen = driver.ok(
        'local d, out = require("@antiraid/datetime"), {}\n'
        f"for i, c in {{{pairs}}} do\n"
        "local at = d.UTC:fromTime(c[1]) + d.timedelta_micros(c[2])\n"
        "out[i] = {at:format('%Y-%m-%dT%H:%M:%S.%6f+00:00'), at:duration_since(d.UTC:fromTime(c[1])).micros}\n"
        "end return out"
    )
    for (seconds, micros), (text, since) in zip(cases, seen, strict=True):
        at = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=micros)
        assert text == at.isoformat(timespec="microseconds")
        assert since == micros


def test_no_number_and_no_order_of_operands_breaks_it(make):
    driver = make()
    done = driver.done(driver.script(TRY_ALL))
    assert done.outcome is Outcome.OK, done.error
    tried, worked = done.value
    assert tried > 100_000 and worked > 1_000
