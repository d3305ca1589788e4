"""Real processes, one at a time killed, frozen, starved or cut off while batches run on a stand-in engine."""
