"""Packing, prefix sharing and partial logits give the numbers of the plain way."""

from pathlib import Path

import pytest

from tests.inference_workers.training.conftest import Workshop


@pytest.mark.parametrize("make", ["make_model", "make_windowed_model"])
def test_packed_samples_do_not_see_each_other(workshop: Workshop, tmp_path: Path, make: str) -> None:
    workshop.check(make, folder=str(tmp_path))
    measured = workshop.check("packing", base=str(tmp_path))
    assert measured["chosen"] is True
    alone_values, alone_gradients, _ = measured["alone"]
    for way in ("packed", "padded"):
        values, gradients, _ = measured[way]
        assert values == pytest.approx(alone_values, abs=1e-4)
        assert gradients == pytest.approx(alone_gradients, rel=1e-3, abs=1e-4)
    assert max(alone_gradients) > 0.1


def test_what_samples_share_is_computed_once(workshop: Workshop, base: Path) -> None:
    measured = workshop.check("packing", base=str(base))
    lengths = [9 + 5, 9 + 17, 9 + 2, 12, 6, 9 + 17]
    assert measured["alone"][2] == sum(lengths)
    assert measured["padded"][2] == 6 * 26
    assert measured["packed"][2] == 9 + 5 + 17 + 2 + 12  # one beginning; a beginning of it and a copy add nothing


@pytest.mark.parametrize("count", [1, 256, 700])
def test_logits_in_parts_are_all_logits(workshop: Workshop, count: int) -> None:
    measured = workshop.check("log_probs_of_labels", count=count)
    values, gradients, right = measured["found"]
    expected_values, expected_gradients, expected_right = measured["expected"]
    assert values == pytest.approx(expected_values, abs=1e-4)
    assert gradients == pytest.approx(expected_gradients, abs=1e-4)
    assert right == expected_right
