"""How processes find each other: every contradiction is one line that says what to do."""

import re

import pytest

from clipjax.config import Cluster, UsageError

EXPLICIT = {"coordinator": "10.0.0.1:1234", "num_processes": 2, "process_id": 1}


@pytest.mark.parametrize("fields", [{}, {"coordinator": "auto"}, EXPLICIT])
def test_sensible_ones_are_taken(fields):
    assert Cluster(**fields).heartbeat_seconds == 60


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"coordinator": "10.0.0.1:1234"}, "--coordinator=HOST:PORT needs --num_processes and"),
        ({"num_processes": 2}, "need --coordinator=HOST:PORT"),
        ({**EXPLICIT, "coordinator": "10.0.0.1"}, "'10.0.0.1': expected HOST:PORT or auto"),
        ({**EXPLICIT, "coordinator": "10.0.0.1:http"}, "expected HOST:PORT or auto"),
        ({**EXPLICIT, "process_id": 2}, "--process_id=2 of --num_processes=2"),
        ({**EXPLICIT, "process_id": -1}, "--process_id=-1 of --num_processes=2"),
        ({**EXPLICIT, "bind": "10.0.0.1:1"}, "--bind=10.0.0.1:1: expected an address without"),
        ({"bind": "127.0.0.1"}, "--bind=127.0.0.1 is for several processes"),
        ({**EXPLICIT, "heartbeat_seconds": 0}, "--heartbeat_seconds=0: expected at least 1"),
        ({**EXPLICIT, "initialization_seconds": -1}, "--initialization_seconds=-1"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        Cluster(**fields)
