# SPDX-License-Identifier: Apache-2.0
"""Ends a test that is stuck. A conftest.py imports the hook."""

from __future__ import annotations

import signal

import pytest

from timing import scaled

TEST_TIMEOUT = 120  # seconds; a test that needs more is stuck. A module may set its own (TIMEOUT)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    def give_up(number, frame):
        raise TimeoutError(f"{item.name} did not end within {timeout:g} s")

    timeout = scaled(getattr(item.module, "TIMEOUT", TEST_TIMEOUT))
    old = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)
