"""`Template`: what an engine is given."""

import msgpack

from pytw.limits import Limits
from pytw.worker.template import BUILTINS_DIR, builtins_template, program, read_tree, runnable

from .fakes import template

LIMITS = Limits(template_files_max=1, templates_max=2, source_bytes_max=1024)


def test_item_has_the_layout_of_set_program():
    (one,) = runnable([template("t", "return {}", "B", "A", caps=["kv:*"])], 1, LIMITS)
    assert msgpack.unpackb(one.pack()) == ["t", "init", {"init.luau": b"return {}"}, ["A", "B"], ["kv:*"]]


def test_paused_templates_are_left_out():
    assert runnable([template("t", "", paused=True)], 1, LIMITS) == []


def test_bad_template_stops_no_other():
    found = runnable([template("long", " " * 2000), template("t", "")], 1, LIMITS)
    assert [one.name for one in found] == ["t"]


def test_templates_over_the_bound_are_left_out():
    assert len(runnable([template(str(i), "") for i in range(5)], 1, LIMITS)) == 2


def test_builtins_come_from_the_package():
    files = read_tree(BUILTINS_DIR)
    assert "init.luau" in files
    assert builtins_template(files).name == "$builtins"


def test_program_is_the_list_of_its_items():
    (one,) = runnable([template("t", "return {}", "A")], 1, LIMITS)
    for count in (0, 1, 15, 16, 300):
        assert msgpack.unpackb(program([one.pack()] * count)) == [msgpack.unpackb(one.pack())] * count


def test_a_tree_with_the_references_root_script_starts_there():
    assert builtins_template({"init.luau": b"return {}"}).entry == "init"
    assert builtins_template({"init.luau": b"", "builtins.templateloop.luau": b""}).entry == "builtins.templateloop"
