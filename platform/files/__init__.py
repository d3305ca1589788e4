"""Stored files: uploads, downloads, deletion that never breaks a job."""
