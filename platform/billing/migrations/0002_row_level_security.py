"""The second wall, and the triggers that keep the books (:mod:`billing.models` says what they promise)."""

from typing import ClassVar

from django.db import migrations

from tenants.rls import append_only, protect

# Both run with the rights of whoever inserts the posting, behind the same row-level security.
#
# Before the insertion, because that waits for another posting of the same key, and who waits must not have the others
# wait for him. One account's row stands for all of the organisation's, so that the order of the others cannot matter.
# It is missing before the first posting: then all accounts are opened, and whoever is doing so already is waited for.
_LOCK = """
CREATE FUNCTION billing_lock() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF 'held' IN (NEW.debit, NEW.credit) THEN
        PERFORM FROM billing_hold
        WHERE organization_id = NEW.organization_id AND job = NEW.subject FOR NO KEY UPDATE;
    END IF;
    LOOP
        PERFORM FROM billing_account
        WHERE organization_id = NEW.organization_id AND kind = 'available' FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO billing_account (organization_id, kind, balance_nanos)
        SELECT NEW.organization_id, opened, 0
        FROM unnest(ARRAY['available', 'granted', 'held', 'spent']) AS opened
        ON CONFLICT DO NOTHING;
    END LOOP;
    RETURN NEW;
END
$$
"""
_MOVE = """
CREATE FUNCTION billing_move() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moved integer;
BEGIN
    UPDATE billing_account
    SET balance_nanos = balance_nanos + CASE kind WHEN NEW.credit THEN NEW.amount_nanos ELSE -NEW.amount_nanos END
    WHERE organization_id = NEW.organization_id AND kind IN (NEW.debit, NEW.credit);
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> 2 THEN
        RAISE EXCEPTION 'posting % moved % accounts instead of two', NEW.key, moved;
    END IF;
    IF 'held' IN (NEW.debit, NEW.credit) THEN
        UPDATE billing_hold
        SET remaining_nanos = remaining_nanos
            + CASE NEW.credit WHEN 'held' THEN NEW.amount_nanos ELSE -NEW.amount_nanos END
        WHERE organization_id = NEW.organization_id AND job = NEW.subject;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'posting % names no hold: %', NEW.key, NEW.subject USING ERRCODE = 'foreign_key_violation';
        END IF;
    END IF;
    RETURN NULL;
END
$$
"""
_REFUSE = """
CREATE FUNCTION billing_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'permission denied for table %: %', TG_TABLE_NAME, TG_ARGV[0]
        USING ERRCODE = 'insufficient_privilege';
END
$$
"""
# Guards, because rights alone would not do: the owner has them all, and the others need UPDATE to lock an account and to move it
# from within billing_move. There pg_trigger_depth() is not zero.
_TRIGGERS = """
CREATE TRIGGER billing_lock BEFORE INSERT ON billing_posting
    FOR EACH ROW EXECUTE FUNCTION billing_lock();
CREATE TRIGGER billing_move AFTER INSERT ON billing_posting
    FOR EACH ROW EXECUTE FUNCTION billing_move();
CREATE TRIGGER billing_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_posting
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse('postings are append-only');
CREATE TRIGGER billing_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON billing_account
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION billing_refuse('only a posting moves a balance');
CREATE TRIGGER billing_guard
    BEFORE UPDATE OF organization_id, job, remaining_nanos OR DELETE OR TRUNCATE ON billing_hold
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION billing_refuse('only a posting moves what is held');
CREATE TRIGGER billing_guard_new BEFORE INSERT ON billing_hold
    FOR EACH ROW WHEN (NEW.remaining_nanos <> 0)
    EXECUTE FUNCTION billing_refuse('only a posting moves what is held');
"""
_NO_TRIGGERS = """
DROP TRIGGER billing_guard_new ON billing_hold;
DROP TRIGGER billing_guard ON billing_hold;
DROP TRIGGER billing_guard ON billing_account;
DROP TRIGGER billing_append_only ON billing_posting;
DROP TRIGGER billing_move ON billing_posting;
DROP TRIGGER billing_lock ON billing_posting;
"""


class Migration(migrations.Migration):
    """Puts the tables of this app behind the wall and under their triggers."""

    dependencies: ClassVar = [("billing", "0001_initial"), ("tenants", "0003_people_behind_the_wall")]
    operations: ClassVar = [
        *protect("billing_account", has_id=False),
        *protect("billing_hold", has_id=False),
        *protect("billing_posting"),
        append_only("billing_posting"),
        migrations.RunSQL(
            "REVOKE DELETE ON billing_account, billing_hold FROM hone_app, hone_system",
            "GRANT DELETE ON billing_account, billing_hold TO hone_app, hone_system",
        ),
        migrations.RunSQL(_LOCK, "DROP FUNCTION billing_lock()"),
        migrations.RunSQL(_MOVE, "DROP FUNCTION billing_move()"),
        migrations.RunSQL(_REFUSE, "DROP FUNCTION billing_refuse()"),
        migrations.RunSQL(_TRIGGERS, _NO_TRIGGERS),
    ]
