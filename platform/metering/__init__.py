"""What was used, by whom, at which price: usage events, written with the work they count."""
