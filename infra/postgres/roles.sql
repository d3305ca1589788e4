-- The three roles that Hone connects as, and what each may do in the current database.
--
-- Safe to run again at any time. In production, once, as a superuser:
--
--     createdb hone
--     psql -d hone -v ON_ERROR_STOP=1 -f infra/postgres/roles.sql
--     psql -d hone -c '\password hone_owner'      -- and hone_app, hone_system: no password is set here
--
-- (On a managed service without superuser: a role with CREATEROLE that owns the database and is a member of
-- hone_owner. The file stops with a message where a role has more rights than it should.)
--
-- hone_owner   DATABASE_OWNER_URL   owns database and schema, runs migrations; nothing else connects as it
-- hone_app     DATABASE_URL         what is done for one tenant; row-level security always applies to it
-- hone_system  DATABASE_SYSTEM_URL  what crosses tenants (key lookup, lease claims); named in policies of its own
--
-- Tables that hone_owner creates are readable and writable by the other two; row-level security, not grants,
-- keeps tenants apart. A migration takes rights away where a table is append-only.

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['hone_owner', 'hone_app', 'hone_system'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOBYPASSRLS', role);
        END IF;
    END LOOP;
END
$$;

-- Policies written TO hone_system hold for the owner, too, so migrations can move data of all tenants
-- although row-level security is forced on the owner.
DO $$
BEGIN
    IF NOT pg_has_role('hone_owner', 'hone_system', 'USAGE') THEN
        GRANT hone_system TO hone_owner;
    END IF;
END
$$;

DO $$
DECLARE
    problem text;
BEGIN
    SELECT string_agg(rolname, ', ') INTO problem FROM pg_roles
    WHERE rolname IN ('hone_owner', 'hone_app', 'hone_system')
      AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolreplication OR NOT rolcanlogin);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'these roles must log in and have no superuser, BYPASSRLS, CREATEROLE or REPLICATION: %', problem;
    END IF;

    SELECT string_agg(format('%s in %s', member::regrole, roleid::regrole), ', ') INTO problem FROM pg_auth_members
    WHERE member IN ('hone_app'::regrole, 'hone_system'::regrole);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'hone_app and hone_system must not be members of any role: %', problem;
    END IF;
END
$$;

DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I OWNER TO hone_owner', current_database());
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO hone_app, hone_system', current_database());
END
$$;

ALTER SCHEMA public OWNER TO hone_owner;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO hone_app, hone_system;

ALTER DEFAULT PRIVILEGES FOR ROLE hone_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO hone_app, hone_system;
ALTER DEFAULT PRIVILEGES FOR ROLE hone_owner IN SCHEMA public
    GRANT USAGE, SELECT ON SEQUENCES TO hone_app, hone_system;
