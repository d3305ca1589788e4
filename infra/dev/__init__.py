"""Hone on one machine: real PostgreSQL and Valkey, and a supervisor of every process (``make run``)."""
