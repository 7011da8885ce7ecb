"""What only one master may have."""

import os
import socket

import pytest

from pytw.errors import AddressInUse, AlreadyRunning, ConfigError, StorageRefused
from pytw.main.claims import LOCK_FILE, DataDir, bind


def test_second_claim_names_the_first_owner(tmp_path):
    first = DataDir.claim(str(tmp_path / "data"))
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}"):
        DataDir.claim(str(tmp_path / "data"))
    first.release()
    DataDir.claim(str(tmp_path / "data")).release()


def test_stale_lock_file_is_no_obstacle(tmp_path):
    (tmp_path / LOCK_FILE).write_text("1\n")
    DataDir.claim(str(tmp_path)).release()


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(StorageRefused, match="--data-dir"):
        DataDir.claim(str(tmp_path / "data"))


def test_used_port_names_what_changes_it():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressInUse, match="--listen HOST:PORT or TW_ADDRS_TEMPLATE_WORKER"):
            bind(address, key="addrs.template_worker", flag="--listen")


def test_address_of_another_machine_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        bind("192.0.2.1:0", key="addrs.template_worker", flag="--listen")


def test_bound_socket_refuses_until_it_listens():
    with bind("127.0.0.1:0", key="addrs.template_worker") as sock, pytest.raises(ConnectionRefusedError):
        socket.create_connection(sock.getsockname(), timeout=2).close()
