"""Settings that every way of running shares. Read from the environment here and nowhere else.

Any ``NAME`` may be given as ``NAME_FILE``, the path of a file that holds the value (a mounted secret).
A missing or malformed value stops the start.
"""

from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import environ
from celery.schedules import crontab, schedule

from common.logging import logging_config
from common.money import parse_usd

ROOT = Path(__file__).resolve().parents[3]
env = environ.FileAwareEnv()


def switch(name: str, *, default: bool) -> bool:
    """``true`` or ``false``; a typing error is not taken for *false*, as environ's own ``bool`` does."""
    text = env.str(name, default=str(default)).lower()
    if text not in ("true", "false"):
        raise environ.ImproperlyConfigured(f"{name} must be 'true' or 'false', not {text!r}")
    return bool(text == "true")


def days(name: str, *, default: int) -> int:
    """For how long something is kept; 0 is for ever."""
    number = env.int(name, default=default)
    if not 0 <= number <= 36_500:
        raise environ.ImproperlyConfigured(f"{name} must be a number of days from 0 (for ever) to 36500, not {number}")
    return int(number)


def networks(name: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """A list in CIDR notation, separated by commas."""
    try:
        return tuple(ip_network(text.strip()) for text in env.list(name, default=[]))
    except ValueError as error:
        raise environ.ImproperlyConfigured(f"{name} must be a list of networks: {error}") from error


def limit(name: str, *, default: int) -> int:
    """At least one of something, and no more than a BIGINT counts."""
    number = env.int(name, default=default)
    if not 1 <= number < 2**63:
        raise environ.ImproperlyConfigured(f"{name} must be a whole number of at least 1, not {number}")
    return int(number)


DEBUG = False
SECRET_KEY = env.str("SECRET_KEY")
KEY_PEPPER = bytes.fromhex(env.str("KEY_PEPPER"))
"""Key of the keyed digests under which API keys and worker tokens are stored."""
if len(KEY_PEPPER) < 32:
    raise environ.ImproperlyConfigured("KEY_PEPPER must be at least 32 bytes, in hexadecimal")
KEY_CACHE_SECONDS = env.float("HONE_KEY_CACHE_SECONDS", default=10)
"""A process remembers an API key for so long at most; changes reach it within a second. 0 switches that off."""
if not 0 <= KEY_CACHE_SECONDS <= 3600:
    raise environ.ImproperlyConfigured("HONE_KEY_CACHE_SECONDS must be a number of seconds from 0 (off) to 3600")
TRUSTED_PROXIES = networks("HONE_TRUSTED_PROXIES")
"""Whose X-Forwarded-For is believed (:mod:`common.addresses`): for keys that are bound, and for throttles."""
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost"])

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "allauth.account",
    "allauth.headless",
    "allauth.mfa",
    "allauth.usersessions",
    "rest_framework",
    "drf_spectacular",
    "common",
    "accounts",
    "tenants",
    "files",
    "catalog",
    "fleet",
    "notifications",
    "metering",
    "billing",
    "batches",
    "finetuning",
    "operations",
]
MIDDLEWARE = [
    "common.middleware.RequestMiddleware",
    "django.middleware.security.SecurityMiddleware",
    # For the routes of django-allauth; they touch no database before a view asks.
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "allauth.account.middleware.AccountMiddleware",
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
APPEND_SLASH = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator",
        "OPTIONS": {"user_attributes": ["email", "name"]},
    },
]

# People sign up and in with e-mail address and password, by JSON alone; codes come by e-mail (infra/docs/accounts.md).
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
ACCOUNT_ADAPTER = "accounts.adapters.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND = True
ACCOUNT_PASSWORD_RESET_BY_CODE_ENABLED = True
ACCOUNT_PASSWORD_RESET_BY_CODE_TIMEOUT = 15 * 60
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False  # nobody can make Hone write to an address that has no account
ACCOUNT_EMAIL_NOTIFICATIONS = True
HEADLESS_ONLY = True
HEADLESS_CLIENTS = ("app",)
HEADLESS_ADAPTER = "accounts.adapters.HeadlessAdapter"
HEADLESS_TOKEN_STRATEGY = "accounts.sessions.SessionTokens"  # noqa: S105  # the name of a class
MFA_ADAPTER = "accounts.adapters.MFAAdapter"
MFA_TOTP_ISSUER = "Hone"
# Where mail goes: smtp+tls://user:password@host:port and the like.
vars().update(env.email_url("EMAIL_URL"))
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.str("HONE_EMAIL_FROM", default="Hone <hone@localhost>")

LOGGING_CONFIG = None
logging_config(level=env.str("LOG_LEVEL", default="INFO"), as_json=switch("LOG_JSON", default=True))


def _database(variable: str) -> dict[str, Any]:
    config: dict[str, Any] = env.db(variable)
    if config["ENGINE"] != "django.db.backends.postgresql":
        raise environ.ImproperlyConfigured(f"{variable} must be a postgresql:// URL")
    config["CONN_MAX_AGE"] = None
    config["CONN_HEALTH_CHECKS"] = True
    config["DISABLE_SERVER_SIDE_CURSORS"] = False
    config["OPTIONS"] = {**config.get("OPTIONS", {}), "application_name": "hone", "connect_timeout": 5}
    return config


# Three roles, three aliases: what tenants do, what crosses tenants, what changes the schema (ARCHITECTURE 4).
DATABASES = {
    "default": _database("DATABASE_URL"),
    "system": _database("DATABASE_SYSTEM_URL"),
    "owner": _database("DATABASE_OWNER_URL"),
}
DATABASE_ROUTERS = ["common.database.RoleRouter"]

STORAGE_ROOT = Path(env.str("STORAGE_ROOT", default=str(ROOT / ".hone" / "storage")))
STORAGES = {
    "default": {
        "BACKEND": "common.storage.DurableFileSystemStorage",
        "OPTIONS": {"location": STORAGE_ROOT, "file_permissions_mode": 0o600, "directory_permissions_mode": 0o700},
    },
}

CELERY_BROKER_URL = env.str("REDIS_URL")
CACHES = {
    "default": {
        "BACKEND": "common.cache.FallbackCache",
        "LOCATION": CELERY_BROKER_URL,
        "KEY_PREFIX": "hone",
        "OPTIONS": {"socket_timeout": 0.5, "socket_connect_timeout": 0.5},
    },
}
CELERY_TASK_IGNORE_RESULT = True  # Postgres is the truth; a result backend is one more thing that can be lost
CELERY_TASK_ACKS_LATE = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_timeout": 5, "socket_connect_timeout": 5}
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_max": 0.2}
CELERY_TASK_DEFAULT_QUEUE = "hone.control"
CELERY_BEAT_SCHEDULER = "fleet.beat:Scheduler"
CELERY_BEAT_SCHEDULE = {
    "sweep-leases": {"task": "fleet.tasks.sweep", "schedule": schedule(timedelta(seconds=2))},
    "close-batches": {"task": "batches.tasks.close_due", "schedule": schedule(timedelta(seconds=5))},
    "steer-batches": {"task": "batches.tasks.steer_waiting", "schedule": schedule(timedelta(seconds=10))},
    "forget-old-requests": {"task": "tenants.tasks.forget_old", "schedule": schedule(timedelta(hours=1))},
    "send-emails": {"task": "accounts.tasks.send_emails", "schedule": schedule(timedelta(seconds=5))},
    "forget-ended-sessions": {"task": "accounts.tasks.forget_sessions", "schedule": schedule(timedelta(hours=1))},
    "send-webhooks": {"task": "notifications.tasks.send_due", "schedule": schedule(timedelta(seconds=5))},
    "delete-old-webhook-events": {"task": "notifications.tasks.delete_old", "schedule": schedule(timedelta(hours=1))},
    "delete-expired-files": {"task": "files.tasks.delete_expired", "schedule": schedule(timedelta(minutes=5))},
    "close-old-uploads": {"task": "files.tasks.close_old_uploads", "schedule": schedule(timedelta(minutes=1))},
    "remove-old-batch-rows": {"task": "batches.tasks.remove_old", "schedule": schedule(timedelta(hours=1))},
    "forget-deleted-files": {"task": "files.tasks.forget_deleted", "schedule": schedule(timedelta(hours=1))},
    "add-months-of-usage": {"task": "metering.tasks.add_months", "schedule": schedule(timedelta(hours=6))},
    # Once a day by the clock (UTC): a beat that is restarted daily would never reach the end of an interval.
    "delete-model-bytes": {"task": "catalog.tasks.delete_leftovers", "schedule": schedule(timedelta(hours=1))},
    "delete-orphaned-blobs": {"task": "files.tasks.delete_orphans", "schedule": crontab(minute=17, hour=3)},
    "check-ledgers": {"task": "billing.tasks.check", "schedule": crontab(hour="3", minute="20")},
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "DEFAULT_PARSER_CLASSES": ["common.http.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["common.http.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "common.http.AnyAccept",
    "EXCEPTION_HANDLER": "common.http.render_exception",
    "DEFAULT_SCHEMA_CLASS": "tenants.openapi.ContractSchema",
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Hone",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/v1",
    "COMPONENT_SPLIT_PATCH": False,
    "ENFORCE_NON_BLANK_FIELDS": True,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "PREPROCESSING_HOOKS": ["tenants.openapi.public_endpoints"],
    "POSTPROCESSING_HOOKS": ["tenants.openapi.complete"],
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 8 * 1024 * 1024

# Limits of the API (API.md), in bytes, rows and seconds.
ORGANIZATIONS_PER_OWNER = env.int("HONE_ORGANIZATIONS_PER_OWNER", default=20)
SIGNUP_CREDIT_NANOS = parse_usd(env.str("HONE_SIGNUP_CREDIT_USD", default="0"))
"""What the first organisation of everybody who signs up can spend at once."""
FILE_MAX_BYTES = env.int("HONE_FILE_MAX_BYTES", default=512 * 1024 * 1024)
UPLOAD_PART_MAX_BYTES = env.int("HONE_UPLOAD_PART_MAX_BYTES", default=64 * 1024 * 1024)
PROJECT_MAX_STORED_BYTES = env.int("HONE_PROJECT_MAX_STORED_BYTES", default=100 * 1024**3)
PROJECT_MAX_FILES = env.int("HONE_PROJECT_MAX_FILES", default=10_000)
BATCH_INPUT_MAX_BYTES = env.int("HONE_BATCH_INPUT_MAX_BYTES", default=200 * 1024 * 1024)
BATCH_INPUT_MAX_ROWS = env.int("HONE_BATCH_INPUT_MAX_ROWS", default=50_000)
BATCH_LINE_MAX_BYTES = env.int("HONE_BATCH_LINE_MAX_BYTES", default=4 * 1024 * 1024)
BATCH_SHARD_SECONDS = env.float("HONE_BATCH_SHARD_SECONDS", default=10)
BATCH_SHARD_TOKENS = env.int("HONE_BATCH_SHARD_TOKENS", default=8_192)  # while no node has reported its speed
BATCH_SHARD_MAX_ROWS = env.int("HONE_BATCH_SHARD_MAX_ROWS", default=256)
BATCH_ROW_TIMEOUT_SECONDS = env.float("HONE_BATCH_ROW_TIMEOUT_SECONDS", default=600)
BATCH_CANCEL_GRACE_SECONDS = env.float("HONE_BATCH_CANCEL_GRACE_SECONDS", default=10)
TRAINING_CHECKPOINT_SECONDS = limit("HONE_TRAINING_CHECKPOINT_SECONDS", default=120)
"""How much of a training a kill may cost: after so long without a checkpoint an interim one is made."""
ARTIFACT_MAX_BYTES = limit("HONE_ARTIFACT_MAX_BYTES", default=16 * 1024**3)
"""Of one file that a node puts: the optimiser's state of a checkpoint is the largest."""
EVALUATION_MAX_ROWS = limit("HONE_EVALUATION_MAX_ROWS", default=500)
"""Held-out rows on which base and tuned model are compared."""
NODE_HEARTBEAT_SECONDS = env.float("HONE_NODE_HEARTBEAT_SECONDS", default=1)
NODE_POLL_SECONDS = env.float("HONE_NODE_POLL_SECONDS", default=2)
LEASE_SECONDS = env.float("HONE_LEASE_SECONDS", default=15)
LEASE_MAX_ATTEMPTS = env.int("HONE_LEASE_MAX_ATTEMPTS", default=5)
BACKGROUND_WORK_AT_ONCE = limit("HONE_BACKGROUND_WORK_AT_ONCE", default=1)
"""Pieces of the control plane's own work that may take many minutes, such as reports on files: fewer than it has
workers, or what is urgent waits for them."""
WEBHOOK_ENDPOINTS_PER_PROJECT = env.int("HONE_WEBHOOK_ENDPOINTS_PER_PROJECT", default=20)
WEBHOOK_TIMEOUT_SECONDS = env.float("HONE_WEBHOOK_TIMEOUT_SECONDS", default=10)
WEBHOOK_RETENTION_DAYS = env.int("HONE_WEBHOOK_RETENTION_DAYS", default=30)
"""Events and delivery logs are kept so long, and in any case until the last attempt; 0 is for ever."""
WEBHOOK_ALLOW_PRIVATE = switch("HONE_WEBHOOK_ALLOW_PRIVATE", default=False)
"""Lets webhooks go to http:// and to addresses inside this network: for development and tests alone."""

# What a project may ask of one model; its own limits are lower or these (API: rate limits of projects).
LIMIT_REQUESTS_PER_MINUTE = limit("HONE_LIMIT_REQUESTS_PER_MINUTE", default=10_000)
LIMIT_TOKENS_PER_MINUTE = limit("HONE_LIMIT_TOKENS_PER_MINUTE", default=2_000_000)
LIMIT_BATCH_INPUT_TOKENS = limit("HONE_LIMIT_BATCH_INPUT_TOKENS", default=1_000_000_000)
"""Of all its batch requests that wait or run, estimated."""

LORA_MAX_RANK = limit("HONE_LORA_MAX_RANK", default=64)
"""Of a fine-tuned model's adapter; the nodes' own limit (``lora.max_rank`` of their files) must not be lower."""
ADAPTER_MAX_BYTES = limit("HONE_ADAPTER_MAX_BYTES", default=2 * 1024**3)

# For how many days finished work is kept (infra/docs/retention.md).
BATCH_ROW_RETENTION_DAYS = days("HONE_BATCH_ROW_RETENTION_DAYS", default=90)
DELETED_FILE_RETENTION_DAYS = days("HONE_DELETED_FILE_RETENTION_DAYS", default=30)
