"""Weight files: names, sources, download, SHA-256."""
