"""What every worker is told."""

import msgspec

from pytw.config.sections import Config
from pytw.limits import Limits
from pytw.main.options import ServeOptions
from pytw.main.specs import common_spec

CONFIGURED = {
    "sites": {"api": "https://a.example"},
    "templates": {"compat_ratelimits": True, "http_domains": ["example.org"]},
    "log": {"level": "debug", "json": True},
    "limits": {"slice_ms": 2},
}


def test_what_is_configured_reaches_each_worker() -> None:
    config = msgspec.convert(CONFIGURED, Config)
    spec = common_spec(config, ServeOptions(threads_worker=1, builtins_dir="tree", worker_debug=True))
    assert spec.links["api_url"] == "https://a.example"
    assert (spec.compat_ratelimits, spec.http_domains) == (True, ("example.org",))
    assert (spec.log_level, spec.log_json) == ("debug", True)
    assert spec.limits == Limits(slice_ms=2)
    assert (spec.vm_threads, spec.builtins_dir, spec.worker_debug) == (1, "tree", True)
