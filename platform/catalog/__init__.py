"""What can be called and what it costs: base models and versioned prices."""
