"""Events that customers asked to be told of: an outbox, filled with the change itself, and its deliveries."""
