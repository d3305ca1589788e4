"""How long each part of a demonstration took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """In seconds, in the order of the parts."""

    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time one part and say that it begins."""
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        yield
        self.parts[name] = time.monotonic() - started

    def report(self) -> None:
        """Print all of it."""
        print("\nWhere the time went")
        for name, seconds in self.parts.items():
            print(f"  {seconds:7.1f} s  {name}")
        print(f"  {sum(self.parts.values()):7.1f} s  altogether")
