"""Usage events in a partition for each month, and the sums of each hour."""

from typing import ClassVar

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

from tenants.models import tenant_key
from tenants.rls import append_only, protect

_REFERENCES = {"project_id": "tenants_project", "api_key_id": "tenants_apikey"}
_COLUMNS = """source, occurred_at, organization_id, project_id, api_key_id, job, operation, model, price_id, requests,
    input_tokens, cached_tokens, output_tokens, cost_nanos"""
_KEY = "organization_id, hour, project_id, api_key_id, operation, model, is_batch, price_id"
_EVENTS = """
CREATE TABLE metering_usagemonths (
    source varchar(80) NOT NULL,
    occurred_at timestamptz NOT NULL,
    organization_id uuid NOT NULL,
    project_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    job varchar(80) NOT NULL,
    operation varchar(16) DEFAULT 'completions' NOT NULL,
    model varchar(200) NOT NULL,
    price_id uuid NOT NULL,
    requests integer NOT NULL CHECK (requests >= 0),
    input_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost_nanos bigint NOT NULL
) PARTITION BY RANGE (occurred_at);
CREATE TABLE metering_usageevent_other PARTITION OF metering_usagemonths DEFAULT;
"""
_MOVE = f"""
INSERT INTO metering_usagemonths ({_COLUMNS}) SELECT {_COLUMNS} FROM metering_usageevent;
DROP TABLE metering_usageevent;
ALTER TABLE metering_usagemonths RENAME TO metering_usageevent;
ALTER TABLE metering_usageevent
    ADD PRIMARY KEY (source, occurred_at),
    ADD CONSTRAINT usage_not_negative
        CHECK (input_tokens >= cached_tokens AND cached_tokens >= 0 AND output_tokens >= 0 AND cost_nanos >= 0),
    ADD FOREIGN KEY (organization_id) REFERENCES tenants_organization (id) DEFERRABLE INITIALLY DEFERRED,
    ADD FOREIGN KEY (price_id) REFERENCES catalog_price (id) DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX usage_by_organization ON metering_usageevent (organization_id, occurred_at);
CREATE INDEX usage_by_job ON metering_usageevent (job) WHERE job <> '';
"""  # noqa: S608  # names of our own
_SUM = f"""
INSERT INTO metering_usagehour AS hour ({_KEY}, requests, input_tokens, cached_tokens, output_tokens, cost_nanos)
SELECT organization_id, date_trunc('hour', occurred_at, 'UTC'), project_id, api_key_id, operation, model, job <> '',
    price_id, sum(requests), sum(input_tokens), sum(cached_tokens), sum(output_tokens), sum(cost_nanos)
FROM {{events}} GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
"""  # noqa: S608  # names of our own
# With the rights of whoever inserts the events, behind the same row-level security. In one order, so that two that add
# to several hours wait for each other and do not lock each other out.
_ROLL_UP = f"""
CREATE FUNCTION metering_roll_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    {_SUM.format(events="added")} ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
    ON CONFLICT ({_KEY}) DO UPDATE SET
        requests = hour.requests + excluded.requests,
        input_tokens = hour.input_tokens + excluded.input_tokens,
        cached_tokens = hour.cached_tokens + excluded.cached_tokens,
        output_tokens = hour.output_tokens + excluded.output_tokens,
        cost_nanos = hour.cost_nanos + excluded.cost_nanos;
    RETURN NULL;
END
$$;
CREATE TRIGGER metering_roll_up AFTER INSERT ON metering_usageevent REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION metering_roll_up();
"""
_GUARD = """
CREATE FUNCTION metering_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'permission denied for table %: only a usage event adds to an hour', TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER metering_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON metering_usagehour
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION metering_refuse();
"""
# A partition is nobody's to touch but through its parent, whose policies and triggers hold then. What lies in the
# partition for all else moves into the new one, unseen by the trigger, which has counted it before.
_ADD_MONTH = """
CREATE FUNCTION metering_close_partition(name text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('REVOKE ALL ON public.%I FROM hone_app, hone_system', name);
    EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', name);
END
$$;
CREATE FUNCTION metering_add_month(day date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    first timestamptz := date_trunc('month', day::timestamptz);
    next timestamptz := first + interval '1 month';
    name text := 'metering_usageevent_' || to_char(first, 'YYYY_MM');
BEGIN
    IF to_regclass('public.' || name) IS NOT NULL THEN
        RETURN;
    END IF;
    LOCK TABLE public.metering_usageevent IN SHARE ROW EXCLUSIVE MODE;
    IF to_regclass('public.' || name) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE public.%I (LIKE public.metering_usageevent INCLUDING ALL)', name);
    EXECUTE format(
        'WITH moved AS (DELETE FROM public.metering_usageevent WHERE occurred_at >= %L AND occurred_at < %L RETURNING *) '
        'INSERT INTO public.%I SELECT * FROM moved', first, next, name
    );
    PERFORM public.metering_close_partition(name);
    EXECUTE format(
        'ALTER TABLE public.metering_usageevent ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
        name, first, next
    );
END
$$;
REVOKE ALL ON FUNCTION metering_add_month, metering_close_partition FROM PUBLIC;
GRANT EXECUTE ON FUNCTION metering_add_month TO hone_system;
SELECT metering_close_partition('metering_usageevent_other');
SELECT metering_add_month(month::date) FROM generate_series(
    (SELECT date_trunc('month', coalesce(min(occurred_at), now()), 'UTC') FROM metering_usageevent),
    now() + interval '1 month', interval '1 month'
) AS month;
"""


_ORGANIZATION = models.ForeignKey(
    db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="tenants.organization"
)
_PRICE = models.ForeignKey(
    db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="catalog.price"
)
_OPERATIONS = [("completions", "Completions"), ("embeddings", "Embeddings"), ("training", "Training")]
_USAGE_EVENT = migrations.CreateModel(
    name="UsageEvent",
    fields=[
        (
            "pk",
            models.CompositePrimaryKey(
                "source", "occurred_at", blank=True, editable=False, primary_key=True, serialize=False
            ),
        ),
        ("source", models.CharField(max_length=80)),
        ("job", models.CharField(blank=True, max_length=80)),
        ("operation", models.CharField(choices=_OPERATIONS, db_default="completions", max_length=16)),
        ("model", models.CharField(max_length=200)),
        ("requests", models.PositiveIntegerField()),
        ("input_tokens", models.BigIntegerField()),
        ("cached_tokens", models.BigIntegerField()),
        ("output_tokens", models.BigIntegerField()),
        ("cost_nanos", models.BigIntegerField()),
        ("occurred_at", models.DateTimeField(default=django.utils.timezone.now)),
        ("api_key", tenant_key("tenants.apikey", db_index=False)),
        ("organization", _ORGANIZATION),
        ("price", _PRICE),
        ("project", tenant_key("tenants.project", db_index=False)),
    ],
    options={
        "indexes": [
            models.Index(fields=["organization", "occurred_at"], name="usage_by_organization"),
            models.Index(condition=~models.Q(job=""), fields=["job"], name="usage_by_job"),
        ],
        "constraints": [
            models.CheckConstraint(
                condition=models.Q(
                    cached_tokens__gte=0,
                    cost_nanos__gte=0,
                    input_tokens__gte=models.F("cached_tokens"),
                    output_tokens__gte=0,
                ),
                name="usage_not_negative",
            )
        ],
    },
)


class Migration(migrations.Migration):
    """Events keep what they are; their id goes, since a partitioned table has no key without the month."""

    dependencies: ClassVar = [("metering", "0004_training_operation"), ("catalog", "0001_initial")]
    operations: ClassVar = [
        migrations.CreateModel(
            name="UsageHour",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "organization_id",
                        "hour",
                        "project_id",
                        "api_key_id",
                        "operation",
                        "model",
                        "is_batch",
                        "price_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("hour", models.DateTimeField()),
                ("operation", models.CharField(choices=_OPERATIONS, max_length=16)),
                ("model", models.CharField(max_length=200)),
                ("is_batch", models.BooleanField()),
                ("requests", models.BigIntegerField()),
                ("input_tokens", models.BigIntegerField()),
                ("cached_tokens", models.BigIntegerField()),
                ("output_tokens", models.BigIntegerField()),
                ("cost_nanos", models.BigIntegerField()),
                ("api_key", tenant_key("tenants.apikey", db_index=False)),
                ("organization", _ORGANIZATION),
                ("price", _PRICE),
                ("project", tenant_key("tenants.project", db_index=False)),
            ],
            options={"abstract": False},
        ),
        *protect("metering_usagehour", references=_REFERENCES, has_id=False),
        migrations.RunSQL(
            "REVOKE DELETE ON metering_usagehour FROM hone_app, hone_system",
            "GRANT DELETE ON metering_usagehour TO hone_app, hone_system",
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(_EVENTS), migrations.RunSQL(_MOVE)],
            state_operations=[migrations.DeleteModel("UsageEvent"), _USAGE_EVENT],
        ),
        *protect("metering_usageevent", references=_REFERENCES, has_id=False),
        append_only("metering_usageevent"),
        migrations.RunSQL(_SUM.format(events="metering_usageevent") + "; SET CONSTRAINTS ALL IMMEDIATE"),
        migrations.RunSQL(_ROLL_UP),
        migrations.RunSQL(_GUARD),
        migrations.RunSQL(_ADD_MONTH),
    ]
