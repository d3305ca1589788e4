"""The search for the best number of rows in flight, on engines that are a formula."""

import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from inference_workers.width import START, WidthFinder

Curve = Callable[[int], float]
"""Tokens per second of an engine with that many rows in flight."""


def grows_until(width: int, rate: float) -> Curve:
    return lambda rows: rate * min(rows, width) / width


def thrashes(rows: int) -> float:
    return min(rows, 60) * 100 if rows <= 100 else 3000


def cpu(rows: int) -> float:
    """The CPU engine as it was measured: 13, 50, 62, 75 tokens/s with 1, 8, 32, 64 rows."""
    points = [(1, 13), (8, 50), (32, 62), (64, 75)]
    for (narrow, low), (wide, high) in itertools.pairwise(points):
        if rows <= wide:
            return low + (high - low) * (rows - narrow) / (wide - narrow)
    return 75


class Machine:
    """Runs rows on an engine for a while, as the runner does."""

    def __init__(self, curve: Curve, *, bound: int, tokens: int = 100, noise: float = 0.0, seed: int = 1) -> None:
        self.finder = WidthFinder(bound)
        self.curve, self.mean, self.noise = curve, tokens, noise
        self.random = random.Random(seed)
        self.now, self.tokens = 0.0, 0
        self.widths: list[int] = []
        """At the end of each second."""
        self._running: list[tuple[float, int]] = []

    def run(self, seconds: int) -> None:
        end = len(self.widths) + seconds
        while True:
            while len(self._running) < self.finder.width:
                self._start()
            ends_at, tokens = self._running[0]
            tick = len(self.widths) + 1
            if tick <= ends_at:
                self.now = float(tick)
                self.finder.passed(now=self.now, is_saturated=True)
                self.widths.append(self.finder.width)
                if tick == end:
                    return
            else:
                heapq.heappop(self._running)
                self.now = ends_at
                self.tokens += tokens
                self.finder.answered(tokens=tokens, now=self.now, is_saturated=True)

    def _start(self) -> None:
        width = self.finder.width
        tokens = round(self.mean * (1 + self.random.uniform(-self.noise, self.noise)))
        seconds = width * tokens / self.curve(width) * max(0.1, self.random.gauss(1, self.noise))
        heapq.heappush(self._running, (self.now + seconds, tokens))


def test_slow_rows_have_the_cpus_64_in_flight_within_seconds_and_for_the_length_of_a_batch() -> None:
    machine = Machine(cpu, bound=64, tokens=92)  # a row takes 25 to 80 seconds
    machine.run(300)
    assert machine.widths[:3] == [START, 32, 64]
    assert machine.widths[3:] == [64] * 297


def test_probing_costs_the_cpu_next_to_nothing() -> None:
    machine = Machine(cpu, bound=64, tokens=92, noise=0.1)
    machine.run(600)
    before = machine.tokens
    machine.run(3600)
    assert (machine.tokens - before) / 3600 > 0.97 * 75


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize(
    ("curve", "bound", "best"),
    [
        (grows_until(48, 5_000), 256, 5_000),
        (grows_until(48, 500), 256, 500),
        (grows_until(200, 8_000), 256, 8_000),
        (lambda rows: 5_000 * rows / (rows + 20), 256, 4_637),
    ],
    ids=["fast", "slow", "wide", "soft"],
)
def test_throughput_stays_near_the_best_whatever_the_engine_and_the_noise(
    curve: Curve, bound: int, best: float, noise: float
) -> None:
    machine = Machine(curve, bound=bound, noise=noise)
    machine.run(100)
    before = machine.tokens
    machine.run(500)
    assert (machine.tokens - before) / 500 > 0.92 * best
    assert max(machine.widths) <= bound


def test_rows_do_not_queue_inside_an_engine_that_few_fill() -> None:
    machine = Machine(grows_until(8, 20_000), bound=256)
    machine.run(60)
    assert machine.finder.width <= 2 * START


def test_an_engine_that_too_many_rows_slow_down_gets_fewer() -> None:
    machine = Machine(thrashes, bound=256)
    machine.run(900)
    assert 51 <= machine.finder.width <= 100


def test_it_follows_an_engine_that_changes() -> None:
    machine = Machine(grows_until(20, 4_000), bound=256)
    machine.run(120)
    assert machine.finder.width <= 48
    machine.curve = grows_until(200, 20_000)
    machine.run(600)
    assert machine.finder.width >= 171


def test_probes_become_rare_while_they_bring_nothing() -> None:
    machine = Machine(grows_until(40, 5_000), bound=64)
    machine.run(1500)
    changes = [one != other for one, other in itertools.pairwise(machine.widths)]
    assert sum(changes[:500]) > sum(changes[-500:])
    assert sum(changes[-500:]) <= 16


@pytest.mark.parametrize("bound", [1, 5, START])
def test_a_low_bound_is_used_from_the_start_and_kept(bound: int) -> None:
    machine = Machine(grows_until(64, 10_000), bound=bound)
    machine.run(100)
    assert set(machine.widths) == {bound}


def test_without_enough_rows_nothing_is_learned() -> None:
    finder = WidthFinder(256)
    for second in range(1000):
        finder.answered(tokens=100, now=float(second), is_saturated=False)
        finder.passed(now=float(second), is_saturated=False)
    assert finder.width == START


def test_a_probe_is_given_up_when_there_are_too_few_rows_for_it() -> None:
    machine = Machine(grows_until(48, 5_000), bound=64)
    machine.run(600)
    while len(set(machine.widths[-2:])) == 1:
        machine.run(1)
    tried = machine.finder.width
    machine.finder.passed(now=machine.now, is_saturated=False)
    assert machine.finder.width == machine.widths[-2] != tried
