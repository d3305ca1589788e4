"""What is done for a tenant can queue letters in its own transaction, and still sees none."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """Letters that are written when they are sent, queued in the transaction of what they are about."""

    dependencies: ClassVar = [("accounts", "0004_signup_credit")]
    operations: ClassVar = [
        migrations.AddField("email", "about", models.CharField(blank=True, default="", max_length=80), False),
        migrations.AlterField("email", "subject", models.CharField(blank=True, max_length=200)),
        migrations.AlterField("email", "body", models.TextField(blank=True)),
        migrations.RunSQL(
            """
            CREATE FUNCTION hone_queue_email(id uuid, address text, thing text) RETURNS void
            LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
            AS $$
                INSERT INTO public.accounts_email (id, "to", subject, body, about, attempts)
                VALUES ($1, $2, '', '', $3, 0)
            $$;
            REVOKE ALL ON FUNCTION hone_queue_email FROM PUBLIC;
            GRANT EXECUTE ON FUNCTION hone_queue_email TO hone_app;
            """,
            "DROP FUNCTION hone_queue_email",
        ),
    ]
