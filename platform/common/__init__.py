"""What every app may use and no business knows: errors, ids, pagination, HTTP, logging, task base."""
