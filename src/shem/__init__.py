"""shem."""
