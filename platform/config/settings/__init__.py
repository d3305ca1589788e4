"""One module per way of running: development, test, production; all on top of :mod:`config.settings.base`."""
