"""Batch rows make room for requests of people who wait."""

from inference_workers.online_share import EngineLoad, OnlineShare


def limits(share: OnlineShare, seconds: list[tuple[int, int, int]], width: int = 64) -> list[int]:
    """The limit after each second of (running, waiting, ours)."""
    found = []
    for running, waiting, ours in seconds:
        share.observe(EngineLoad(running, waiting), ours=ours)
        found.append(share.limit(width))
    return found


def test_alone_all_of_the_width_is_used_whether_rows_wait_in_the_engine_or_not() -> None:
    assert limits(OnlineShare(0.5), [(64, 0, 64), (32, 32, 64), (60, 0, 64)]) == [64, 64, 64]


def test_while_others_wait_it_shrinks_to_the_share_and_comes_back_when_they_are_gone() -> None:
    share = OnlineShare(0.5)
    assert limits(share, [(64, 6, 64), (64, 6, 60), (64, 6, 45), (64, 1, 40)]) == [45, 32, 32, 32]
    assert limits(share, [(41, 0, 32), (32, 0, 32), (32, 0, 32)]) == [32, 38, 45]
    assert limits(share, [(32, 0, 32)] * 5)[-1] == 64


def test_others_that_do_not_wait_cost_nothing() -> None:
    assert limits(OnlineShare(0.5), [(70, 0, 64)] * 5) == [64] * 5


def test_a_row_that_has_just_ended_is_not_taken_for_somebody_elses() -> None:
    assert limits(OnlineShare(0.5), [(64, 0, 64), (50, 14, 3), (3, 0, 3)]) == [64, 64, 64]


def test_a_second_without_a_look_changes_nothing_but_what_was_ours() -> None:
    share = OnlineShare(0.5)
    share.observe(EngineLoad(6, 4), ours=2)
    assert (share.limit(64), share.has_company) == (45, True)
    share.observe(None, ours=12)
    share.observe(None, ours=11)
    assert (share.limit(64), share.has_company) == (45, True)
    share.observe(EngineLoad(8, 3), ours=3)
    assert (share.limit(64), share.has_company) == (51, False)


def test_at_least_one_row_runs() -> None:
    assert limits(OnlineShare(0.01), [(5, 5, 1)] * 30, width=4)[-1] == 1
