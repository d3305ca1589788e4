"""People belong to no tenant; work for one sees its members and changes nobody."""

from typing import ClassVar

from django.db import migrations

from tenants.rls import read_only_for_tenants


class Migration(migrations.Migration):
    """Puts the users behind the wall of their memberships, which are behind their own."""

    dependencies: ClassVar = [("tenants", "0002_row_level_security"), ("accounts", "0001_initial")]
    operations: ClassVar = [
        read_only_for_tenants("accounts_user"),
        migrations.RunSQL(
            """
            ALTER TABLE accounts_user ENABLE ROW LEVEL SECURITY;
            ALTER TABLE accounts_user FORCE ROW LEVEL SECURITY;
            CREATE POLICY tenant ON accounts_user FOR SELECT TO hone_app
                USING (id IN (SELECT user_id FROM tenants_membership));
            CREATE POLICY system ON accounts_user TO hone_system USING (true) WITH CHECK (true);
            """,
            """
            DROP POLICY system ON accounts_user;
            DROP POLICY tenant ON accounts_user;
            ALTER TABLE accounts_user NO FORCE ROW LEVEL SECURITY;
            ALTER TABLE accounts_user DISABLE ROW LEVEL SECURITY;
            """,
        ),
    ]
