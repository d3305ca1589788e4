"""The whole product, started as ``make run`` starts it, with real vLLM, used as its users would."""
