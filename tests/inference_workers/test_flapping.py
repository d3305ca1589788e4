"""When an engine is left alone."""

import pytest

from inference_workers.flapping import Flapping


def deaths_until_out(flapping: Flapping, *, had_rows: bool) -> int:
    deaths = 1
    while flapping.died(now=float(deaths), had_rows=had_rows, could_work=False) is None:
        deaths += 1
    return deaths


def test_four_deaths_without_any_row_are_enough() -> None:
    flapping = Flapping(64)
    verdicts = [flapping.died(now=now, had_rows=False, could_work=False) for now in (10.0, 14.0, 18.0, 22.4, 322.0)]
    assert verdicts == [None, None, None, "died 4 times within 12 s", "died 5 times within 312 s"]


@pytest.mark.parametrize(("max_in_flight", "deaths"), [(1, 3), (2, 4), (50, 9), (64, 9), (65, 10), (256, 11)])
def test_a_bisection_may_take_its_deaths(max_in_flight: int, deaths: int) -> None:
    assert deaths_until_out(Flapping(max_in_flight), had_rows=True) == deaths


def test_an_answer_starts_the_count_anew() -> None:
    flapping = Flapping(64)
    for now in range(100):
        assert flapping.died(now=float(now), had_rows=now % 2 == 0, could_work=now % 3 == 2) is None


def test_a_death_with_rows_in_between_is_no_idle_one() -> None:
    flapping = Flapping(64)
    verdicts = [
        flapping.died(now=0.0, had_rows=had_rows, could_work=False)
        for had_rows in (False, False, False, True, False, False, False, False)
    ]
    assert verdicts == [None] * 7 + ["died 8 times within 0 s"]
