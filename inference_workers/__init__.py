"""Hone's node agent: runs on the machines that hold models, and knows no Django.

``python -m inference_workers prepare`` brings models onto the machine, ``python -m inference_workers agent``
serves them: one engine process per model, work leased from the control plane over :mod:`.protocol`.
"""
