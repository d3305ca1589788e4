"""Money: a double-entry ledger per organisation, and holds that pay for jobs before they run."""
