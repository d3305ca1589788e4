"""Organisations, projects, members, keys; the two walls between tenants; the audit trail."""
