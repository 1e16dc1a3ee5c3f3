"""Random access to encoded samples."""
