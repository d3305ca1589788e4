"""How the three measures act together."""

from inference_workers.config import ModelConfig
from inference_workers.online_share import EngineLoad
from inference_workers.pace import LOOK_SECONDS, Pace


def pace(max_in_flight: int = 8) -> Pace:
    return Pace(ModelConfig(name="m", source="folder:/nowhere", device="cpu", max_in_flight=max_in_flight))


def test_an_engine_without_company_is_looked_at_now_and_then_and_one_with_company_every_second() -> None:
    engine = pace()
    assert [engine.wants_load() for _ in range(2 * LOOK_SECONDS)] == [False, False, True] * 2
    engine.passed(EngineLoad(running=9, waiting=0), ours=8, now=1.0)
    assert [engine.wants_load() for _ in range(3)] == [True] * 3
    engine.passed(EngineLoad(running=12, waiting=4), ours=8, now=2.0)
    assert engine.limit == 6
    engine.passed(EngineLoad(running=6, waiting=0), ours=6, now=3.0)
    assert engine.wants_load()  # it is still coming back
    for second in range(5):
        engine.passed(EngineLoad(running=6, waiting=0), ours=6, now=4.0 + second)
    assert engine.limit == 8
    assert [engine.wants_load() for _ in range(LOOK_SECONDS)].count(True) == 1


def test_an_engine_that_counts_no_tokens_is_judged_by_its_rows() -> None:
    engine = pace(64)
    engine.dispatched(16, now=0.0)
    for row in range(1, 1000):  # a hundred rows a second, however wide
        engine.dispatched(engine.limit, now=row / 100)
        engine.answered(0, now=row / 100)
    assert engine.limit == 32
    assert engine.tokens_per_second == 0


def test_only_a_full_engine_teaches_the_width() -> None:
    engine = pace(64)
    engine.dispatched(15, now=0.0)
    for second in range(1, 20):
        engine.passed(None, ours=15, now=float(second))
    assert engine.limit == 16
    engine.dispatched(16, now=20.0)
    for second in (20, 21):
        engine.passed(None, ours=16, now=float(second))
    assert engine.limit == 32
