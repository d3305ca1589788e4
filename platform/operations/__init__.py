"""What the people who run the installation do across all apps: export and delete an organisation."""
