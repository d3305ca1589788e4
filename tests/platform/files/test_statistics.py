"""Numbers about rows."""

from files.statistics import Distribution, Lines, Longest


def test_small_numbers_are_counted_exactly() -> None:
    numbers = Distribution()
    for number in (1, 2, 2, 3, 100, 0):
        numbers.add(number)
    assert numbers.describe() == {
        "min": 0,
        "max": 100,
        "mean": 18.0,
        "total": 108,
        "percentiles": {"p1": 0, "p5": 0, "p25": 1, "p50": 2, "p75": 3, "p90": 100, "p95": 100, "p99": 100},
        "histogram": [
            {"from": 0, "to": 1, "rows": 1},
            {"from": 1, "to": 2, "rows": 1},
            {"from": 2, "to": 4, "rows": 3},
            {"from": 4, "to": 8, "rows": 0},
            {"from": 8, "to": 16, "rows": 0},
            {"from": 16, "to": 32, "rows": 0},
            {"from": 32, "to": 64, "rows": 0},
            {"from": 64, "to": 128, "rows": 1},
        ],
    }


def test_of_nothing_there_is_nothing_to_say() -> None:
    assert Distribution().describe() is None


def test_a_million_different_numbers_take_few_cells_and_stay_within_a_part_in_512() -> None:
    numbers = Distribution()
    for number in range(1_000_000):
        numbers.add(number)
    assert len(numbers._cells) < 7_000
    described = numbers.describe()
    assert described is not None
    assert (described["min"], described["max"], described["mean"]) == (0, 999_999, 499_999.5)
    for percent, exact in (("p50", 499_999), ("p90", 899_999), ("p99", 989_999)):
        assert 0 <= exact - described["percentiles"][percent] <= exact / 512
    assert sum(bin_["rows"] for bin_ in described["histogram"]) == 1_000_000


def test_the_longest_come_first_and_of_equal_ones_the_earlier_lines() -> None:
    longest = Longest(size=3)
    for line, number in enumerate((5, 9, 5, 1, 9, 5), start=1):
        longest.add(number, line=line)
    assert longest.describe("tokens") == [{"line": 2, "tokens": 9}, {"line": 5, "tokens": 9}, {"line": 1, "tokens": 5}]


def test_all_lines_are_counted_and_the_first_named() -> None:
    lines = Lines(size=2)
    for line in (3, 7, 9):
        lines.add(line)
    assert lines.describe() == {"rows": 3, "lines": [3, 7]}
