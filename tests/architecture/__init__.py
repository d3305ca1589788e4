"""Promises about the shape of the code and of the database."""
