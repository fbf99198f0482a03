"""What holds for all tests."""

import signal

import pytest

# A worker of pytest-xdist ignores Ctrl-C, and so would every command that a test starts in order to interrupt it.
signal.signal(signal.SIGINT, signal.default_int_handler)


LONG = ("tutorial", "soak", "label_page", "train", "tune", "optimise", "commands", "int8", "export", "sim", "detect")
"""Files of tests that take longest, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the longest files begin first: nobody then waits for them at the end, when all others are done."""
    first = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: first.get(item.path.name, len(first)))
