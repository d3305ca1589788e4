"""Which adapters one engine has loaded: brought in on demand, the least used goes, none goes while rows use it.

Where more adapters are wanted than there are slots, they take turns: the one that has been in for longest gets no new
rows once its time is over, and goes when those it has are answered.

On the CPU backend rows of the base model read the engine's *last* slot, because "no adapter" is index -1 there and
index -1 is the last one (MEASURED.md, Bug 1). It must never hold an adapter, which takes two things. At most
``max_loras - 1`` adapters are loaded. And since unloading one makes the engine forget its name alone, and leaves its
weights in their slot until the slot is needed, the last slot would be filled by the first adapter beyond those: before
that an adapter of zeros is put there. It is loaded again before every later load, which makes it the engine's most
recently used one, so that another makes room.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from .adapters import AdapterStore
from .engine_server import EngineDied, EngineServer, EngineTrouble
from .protocol import AdapterRef

TURN_SECONDS = 10.0
"""How long an adapter that others wait for stays in at least."""
DEATHS = 2
"""An adapter with which the engine has died so often while loading it is not tried again."""
ZERO = "hone-zero"
"""What the engine calls the adapter of zeros."""

log = structlog.get_logger(__name__)


@dataclass
class _Loaded:
    adapter: AdapterRef
    since: float
    used_at: float
    is_leaving: bool = False
    """It gets no new rows."""


class AdapterSlots:
    """The slots of one engine, whichever process it is at the moment."""

    def __init__(
        self,
        capacity: int,
        store: AdapterStore,
        on_change: Callable[[], None],
        *,
        zeros: Callable[[], Path | None] = lambda: None,
    ) -> None:
        """``zeros`` says where an adapter of zeros is, where the last slot must hold one."""
        self._capacity, self._store, self._on_change, self._zeros = capacity, store, on_change, zeros
        self._server: EngineServer | None = None
        self._loaded: dict[str, _Loaded] = {}
        self._pins: Counter[str] = Counter()
        self._refusals: dict[str, str] = {}
        self._deaths: Counter[str] = Counter()
        self._loads, self._has_zeros = 0, False
        self._swapping: asyncio.Task[None] | None = None

    @property
    def names(self) -> list[str]:
        """What is loaded."""
        return list(self._loaded)

    def attach(self, server: EngineServer) -> None:
        """Work with this process; a new one has nothing loaded."""
        if server is not self._server:
            self._server = server
            for name in self.names:
                self._forget(name)
            self._refusals.clear()
            self._loads, self._has_zeros = 0, False

    def admits(self, adapter: AdapterRef | None) -> bool:
        """Whether a row that needs it may start now."""
        entry = self._loaded.get(adapter.name) if adapter else None
        return adapter is None or (entry is not None and not entry.is_leaving)

    def refusal(self, adapter: AdapterRef | None) -> str | None:
        """Why the engine will not load it."""
        if adapter is not None and self._deaths[adapter.name] >= DEATHS:
            return "the engine died every time it loaded the adapter"
        return self._refusals.get(adapter.name) if adapter else None

    def pin(self, adapter: AdapterRef | None) -> None:
        """A row uses it."""
        if adapter is not None:
            self._pins[adapter.name] += 1
            if entry := self._loaded.get(adapter.name):
                entry.used_at = _now()

    def unpin(self, adapter: AdapterRef | None) -> None:
        """A row does not use it any more."""
        if adapter is not None:
            self._pins -= Counter([adapter.name])  # which forgets those that have none

    def serve(self, wanted: Iterable[tuple[AdapterRef, Path]]) -> float | None:
        """See to it that what is wanted, the most urgent first, gets loaded. To be called at every change.

        Returns after how many seconds it should be called even without one.
        """
        wishes = {adapter.name: (adapter, folder) for adapter, folder in wanted}
        missing = [name for name, (adapter, _) in wishes.items() if not self._is_settled(adapter)]
        if not missing:
            for entry in self._loaded.values():
                entry.is_leaving = False  # whoever waited for its place has gone
            return None
        if self._server is None or (self._swapping is not None and not self._swapping.done()):
            return None
        victim = None
        if len(self._loaded) >= self._capacity:
            victim = self._find_victim(wishes.keys())
            if victim is None:
                return self._end_a_turn()
        self._swapping = asyncio.create_task(self._swap(self._server, *wishes[missing[0]], victim))
        return None

    async def unload(self, addresses: Iterable[str]) -> None:
        """Let go of adapters that nobody may use any more, unless rows still do."""
        gone = set(addresses)
        for name, entry in list(self._loaded.items()):
            if entry.adapter.address in gone and name not in self._pins and self._server is not None:
                self._forget(name)
                with contextlib.suppress(EngineDied, EngineTrouble):
                    await self._server.unload_adapter(name)

    def _is_settled(self, adapter: AdapterRef) -> bool:
        return adapter.name in self._loaded or self.refusal(adapter) is not None

    def _find_victim(self, wanted: Iterable[str]) -> str | None:
        """The least used of those that no row uses, if their turn is over or nobody wants them."""
        names = set(wanted)
        idle = [
            (entry.used_at, name)
            for name, entry in self._loaded.items()
            if name not in self._pins and (entry.is_leaving or name not in names)
        ]
        return min(idle)[1] if idle else None

    def _end_a_turn(self) -> float | None:
        if any(entry.is_leaving for entry in self._loaded.values()):
            return None  # it goes with its last row
        name, oldest = min(self._loaded.items(), key=lambda item: item[1].since)
        left = oldest.since + TURN_SECONDS - _now()
        if left > 0:
            return left
        oldest.is_leaving = True
        return None if name in self._pins else 0.0

    async def _swap(self, server: EngineServer, adapter: AdapterRef, folder: Path, victim: str | None) -> None:
        name, refusal = adapter.name, None
        try:
            if victim is not None:
                self._forget(victim)
                await server.unload_adapter(victim)
            await self._guard_last_slot(server)
            refusal = await server.load_adapter(name, folder)
        except EngineTrouble as trouble:
            refusal = str(trouble)
        except EngineDied:
            self._deaths[name] += 1
            self._on_change()
            return
        if refusal is not None:
            self._refusals[name] = refusal
            log.error("adapter_refused", adapter=name, reason=refusal)
        elif server is self._server:
            self._loads += 1
            del self._deaths[name]
            self._store.hold(adapter)
            self._loaded[name] = _Loaded(adapter, since=_now(), used_at=_now())
            log.info("adapter_loaded", adapter=name, in_place_of=victim, loaded=len(self._loaded))
        self._on_change()

    async def _guard_last_slot(self, server: EngineServer) -> None:
        """Before a load that could take the last slot (see above)."""
        zeros = self._zeros() if self._loads >= self._capacity else None
        if zeros is not None:
            refusal = await server.load_adapter(ZERO, zeros, again=self._has_zeros)
            if refusal is not None:
                raise EngineTrouble(f"the last slot cannot be kept free: {refusal}")
            self._has_zeros = True

    def _forget(self, name: str) -> None:
        self._store.release(self._loaded.pop(name).adapter)


def _now() -> float:
    return asyncio.get_running_loop().time()
