"""``make demo``: the main job on real input with a real model, from nothing to a bill, unattended."""
