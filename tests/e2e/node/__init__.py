"""The unmodified ``openai`` package of npm against the running product."""
