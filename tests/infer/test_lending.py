"""Memory that is lent: never to two at once, and used again."""

import threading
import time

import pytest

from otrain_infer.lending import Lender


def test_what_was_given_back_is_lent_again():
    lender = Lender(list)
    with lender.lend() as first, lender.lend() as second:
        assert first is not second
    for _ in range(3):
        with lender.lend() as again:
            assert again is first or again is second


def test_what_is_lent_comes_back_after_an_error():
    lender = Lender(list)
    with pytest.raises(KeyboardInterrupt), lender.lend() as lent:
        raise KeyboardInterrupt
    with lender.lend() as again:
        assert again is lent


def test_no_two_threads_hold_the_same():
    made, held, wrong = [], set(), []

    def make():
        made.append(object())
        return made[-1]

    lender = Lender(make)

    def work():
        for _ in range(500):
            with lender.lend() as lent:
                if lent in held:
                    wrong.append(lent)
                held.add(lent)
                time.sleep(0)
                held.discard(lent)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 1 <= len(made) <= 8
