"""What holds for all tests."""

import signal

import pytest

# A worker of pytest-xdist ignores Ctrl-C, and so would every command that a test starts in order to interrupt it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the longest file begin first: nobody then waits for it at the end, when all others are done."""
    items.sort(key=lambda item: item.path.name != "test_tutorial.py")
