"""Runs a command line in this process."""

from pytw.cli import _run, root


def tw(capsys, *args):
    code = _run(root, "tw", args)
    out = capsys.readouterr()
    return code, out.out, out.err


def one_line(capsys, *args):
    code, out, err = tw(capsys, *args)
    assert out == ""
    assert err.count("\n") == 1, err
    return code, err.strip()
