"""For the tests: services, database and secrets come from the pytest plugin ``tests.services``."""

import os

# Type checking and the migrations check load these settings too, without any service.
for name, value in {
    "SECRET_KEY": "for-tests-only",
    "KEY_PEPPER": "00" * 32,
    "DATABASE_URL": "postgresql://hone_app@127.0.0.1:1/hone",
    "DATABASE_SYSTEM_URL": "postgresql://hone_system@127.0.0.1:1/hone",
    "DATABASE_OWNER_URL": "postgresql://hone_owner@127.0.0.1:1/hone",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "EMAIL_URL": "memorymail://",
    "HONE_KEY_CACHE_SECONDS": "0",  # tests see their own changes at once; servers of tests switch it on
}.items():
    os.environ.setdefault(name, value)

from config.settings.base import *  # noqa: E402, F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # fast; no test depends on its strength
