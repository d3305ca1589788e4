"""The trainer: a folder in, an adapter, checkpoints and a stream of events out.

``python -m inference_workers.training FOLDER`` trains what ``FOLDER/spec.json`` says (:mod:`.spec`) on token ids that
somebody else has prepared. It needs no network and knows nothing of leases, tenants or templates. The same command
again takes an interrupted folder up where its newest checkpoint was, and changes nothing in a finished one. Under
``accelerate launch`` or ``torchrun`` it is the same program on several devices: each computes a part of every step.
"""
