"""The search for the row that kills the engine, played without an engine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_workers.quarantine import Quarantine


def play(rows: int, poisonous: set[int], width: int) -> tuple[set[int], set[int], int]:
    """Run rows until all are answered or convicted; (answered, convicted, deaths of the engine)."""
    quarantine: Quarantine[int] = Quarantine(width)
    waiting = list(range(rows))
    answered: set[int] = set()
    convicted: set[int] = set()
    deaths = 0
    while len(answered) + len(convicted) < rows:
        in_flight: list[int] = []
        while len(in_flight) < quarantine.width:
            row = quarantine.take() if quarantine.isolating else (waiting.pop(0) if waiting else None)
            if row is None:
                break
            in_flight.append(row)
        assert in_flight, "stuck"
        if poisonous & set(in_flight):
            deaths += 1
            convicted |= set(quarantine.engine_died(in_flight))
        else:
            for row in in_flight:
                quarantine.answered(row)
                answered.add(row)
    assert not quarantine.isolating
    assert quarantine.width == width
    return answered, convicted, deaths


def test_one_poisonous_row_among_64_is_found_in_eight_deaths() -> None:
    answered, convicted, deaths = play(64, {41}, 64)
    assert convicted == {41}
    assert len(answered) == 63
    assert deaths == 8  # 64, 32, 16, 8, 4, 2, and twice alone


@given(
    rows=st.integers(1, 40),
    poisonous=st.sets(st.integers(0, 39), max_size=3),
    width=st.integers(1, 16),
)
def test_exactly_the_poisonous_rows_are_convicted(rows: int, poisonous: set[int], width: int) -> None:
    guilty = {row for row in poisonous if row < rows}
    answered, convicted, _ = play(rows, guilty, width)
    assert convicted == guilty
    assert answered == set(range(rows)) - guilty


def test_a_death_alone_may_be_a_coincidence() -> None:
    quarantine: Quarantine[str] = Quarantine(8)
    assert quarantine.engine_died(["row"]) == []
    assert quarantine.take() == "row"
    quarantine.answered("row")
    assert not quarantine.isolating
    assert quarantine.width == 8


@pytest.mark.parametrize("running", [True, False])
def test_a_row_that_is_gone_holds_nobody_up(running: bool) -> None:
    quarantine: Quarantine[str] = Quarantine(8)
    quarantine.engine_died(["a", "b"])
    quarantine.forget(["b"])
    if running:
        quarantine.take()
    quarantine.forget(["a"])
    assert not quarantine.isolating
