"""What holds for all tests."""

import signal

# A worker of pytest-xdist ignores Ctrl-C, and so would every command that a test starts in order to interrupt it.
signal.signal(signal.SIGINT, signal.default_int_handler)
