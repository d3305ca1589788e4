"""``python -m inference_workers.training FOLDER``: 0 when the run is done or was stopped, 1 when it has failed."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from .errors import Stopped, TrainingError
from .events import EventLog


def main(folder: Path) -> int:
    """Train; how it ended is the last line of ``events.ndjson``."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    stop = _StopWish()
    # Of several processes the first one writes. RANK is set by accelerate and torchrun.
    events = EventLog(folder / "events.ndjson", is_writer=os.environ.get("RANK", "0") == "0")
    try:
        if events.last is None or events.last["kind"] != "done":
            _train(folder, events, stop)
    except Stopped:
        events.message("stopped")
    except TrainingError as error:
        return _fail(events, error.code, error.message)
    except Exception as error:  # whatever it was, the run's reader is told
        traceback.print_exc()
        return _fail(events, "internal_error", f"the trainer ended with {type(error).__name__}; its log says more")
    finally:
        events.close()
    return 0


def _train(folder: Path, events: EventLog, stop: _StopWish) -> None:
    # Loading the libraries takes seconds, in which a wish to stop must already be heard.
    from .devices import Team, make_deterministic  # noqa: PLC0415
    from .run import Run  # noqa: PLC0415
    from .spec import load_spec  # noqa: PLC0415

    spec = load_spec(folder / "spec.json")
    make_deterministic()
    team = Team(spec.device, lambda: stop.is_set)
    try:
        run = Run(folder, spec, team, events)
        stop.wait_for_a_good_moment()
        run.train()
    finally:
        team.close()


def _fail(events: EventLog, code: str, message: str) -> int:
    events.failed(code, message)
    return 1


class _StopWish:
    """SIGTERM: at once while nothing has begun, later when the run asks for it."""

    def __init__(self) -> None:
        self.is_set = False
        self._at_once = True
        signal.signal(signal.SIGTERM, self._heard)

    def wait_for_a_good_moment(self) -> None:
        self._at_once = False

    def _heard(self, *_: Any) -> None:
        self.is_set = True
        if self._at_once:
            raise Stopped


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
