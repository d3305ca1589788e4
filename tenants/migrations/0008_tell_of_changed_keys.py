"""Every process that remembers keys hears when one of them, its project or its organisation changes."""

from typing import ClassVar

from django.db import migrations

# A new key is remembered by nobody, and that a key was used is no news: commits that NOTIFY queue for each other.
# Projects and organisations cannot go before their keys, which tell of it.
_TELL = """
CREATE FUNCTION tenants_tell_of_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('hone_keys', 'key:' || OLD.public_id);
    RETURN NULL;
END $$;
CREATE TRIGGER tenants_key_changed AFTER UPDATE ON tenants_apikey FOR EACH ROW
    WHEN (to_jsonb(OLD) - 'last_used_at' IS DISTINCT FROM to_jsonb(NEW) - 'last_used_at')
    EXECUTE FUNCTION tenants_tell_of_key();
CREATE TRIGGER tenants_key_deleted AFTER DELETE ON tenants_apikey FOR EACH ROW
    EXECUTE FUNCTION tenants_tell_of_key();

CREATE FUNCTION tenants_tell_of_organization() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('hone_keys', 'organization:' || (to_jsonb(OLD) ->> TG_ARGV[0]));
    RETURN NULL;
END $$;
CREATE TRIGGER tenants_project_changed AFTER UPDATE ON tenants_project FOR EACH ROW
    WHEN (OLD IS DISTINCT FROM NEW)
    EXECUTE FUNCTION tenants_tell_of_organization('organization_id');
CREATE TRIGGER tenants_organization_changed AFTER UPDATE ON tenants_organization FOR EACH ROW
    WHEN (OLD IS DISTINCT FROM NEW)
    EXECUTE FUNCTION tenants_tell_of_organization('id');
"""
_TELL_NOBODY = """
DROP TRIGGER tenants_organization_changed ON tenants_organization;
DROP TRIGGER tenants_project_changed ON tenants_project;
DROP FUNCTION tenants_tell_of_organization();
DROP TRIGGER tenants_key_deleted ON tenants_apikey;
DROP TRIGGER tenants_key_changed ON tenants_apikey;
DROP FUNCTION tenants_tell_of_key();
"""


class Migration(migrations.Migration):
    """Triggers, so that no writer can forget it; what listens is ``tenants/key_link.py``."""

    dependencies: ClassVar = [("tenants", "0007_session_keys")]
    operations: ClassVar = [migrations.RunSQL(_TELL, _TELL_NOBODY)]
