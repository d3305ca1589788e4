"""Tokens per second of busy time."""

import pytest

from inference_workers.throughput import Throughput


def test_nothing_is_known_at_first() -> None:
    throughput = Throughput()
    throughput.is_busy(True, now=5.0)
    throughput.is_busy(False, now=5.0)
    assert throughput.tokens_per_second == 0


def test_idle_time_does_not_count() -> None:
    throughput = Throughput()
    for start in (0.0, 1000.0):
        throughput.is_busy(True, now=start)
        for second in range(1, 11):
            throughput.answered(tokens=50, now=start + second)
        throughput.is_busy(False, now=start + 10)
    throughput.is_busy(False, now=5000.0)
    assert throughput.tokens_per_second == pytest.approx(50, rel=0.03)


def test_it_follows_within_half_a_minute_or_so() -> None:
    throughput = Throughput()
    throughput.is_busy(True, now=0.0)
    for second in range(1, 301):
        throughput.answered(tokens=100, now=float(second))
    assert throughput.tokens_per_second == pytest.approx(100, rel=0.03)
    for second in range(301, 331):
        throughput.answered(tokens=10, now=float(second))
    assert throughput.tokens_per_second == pytest.approx(10 + 90 / 2.718, rel=0.03)
