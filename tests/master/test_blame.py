"""Naming and quarantine, with time as a number and real shared memory."""

import os
import signal
import struct

from pytw.master import blame
from pytw.master.blame import Blame


def test_second_naming_quarantines_10_s_and_doubles_to_300() -> None:
    book = Blame(lambda: 0.0)
    assert book.named([7]) == []
    spells = [book.named([7])[0].seconds for _ in range(7)]
    assert spells == [10, 20, 40, 80, 160, 300, 300]


def test_owner_is_told_once() -> None:
    book = Blame(lambda: 0.0)
    book.named([7])
    assert [book.named([7])[0].first for _ in range(3)] == [True, False, False]


def test_one_death_names_a_tenant_once_though_two_threads_ran_it() -> None:
    book = Blame(lambda: 0.0)
    assert book.named([7, 7]) == []


def test_good_behaviour_for_an_hour_clears_the_record() -> None:
    now = 0.0
    book = Blame(lambda: now)
    book.named([7])
    now = 3_601.0
    assert book.named([7]) == []


def test_slots_written_by_another_process_are_read_and_cannot_be_resized() -> None:
    fd = blame.create_slots(3)
    try:
        os.pwrite(fd, struct.pack("<QQ", 1 << 63 | 5, 9), 16)
        assert blame.read_slots(fd, 3) == [(1 << 63 | 5, 9)]
        try:
            os.ftruncate(fd, 0)
        except PermissionError:
            resized = False
        else:
            resized = True
        assert not resized
    finally:
        os.close(fd)


def test_kill_from_outside_names_nobody() -> None:
    assert not blame.is_tenants_fault(-signal.SIGKILL, deaf=False, out_of_memory=False)
    assert not blame.is_tenants_fault(None, deaf=False, out_of_memory=False)
    assert blame.is_tenants_fault(-signal.SIGKILL, deaf=True, out_of_memory=False)
    assert blame.is_tenants_fault(-signal.SIGKILL, deaf=False, out_of_memory=True)
    assert blame.is_tenants_fault(-signal.SIGSEGV, deaf=False, out_of_memory=False)
    assert blame.is_tenants_fault(70, deaf=False, out_of_memory=False)
