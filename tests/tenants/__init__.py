"""Two walls between tenants, keys, permissions, audit."""
