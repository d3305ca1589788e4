"""Documents whose programs are run."""
