"""Worker nodes and the leases through which all long work is handed out."""
