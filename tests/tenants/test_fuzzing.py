"""schemathesis plays every role and every kind of key: whatever it sends, the answer is one that the schema promises.

``HONE_FUZZ_EXAMPLES`` says how many requests each operation gets from each caller. What is sent is decided by the code
alone, so a run that fails fails again.
"""
