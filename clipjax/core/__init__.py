"""Layer 1: arrays, devices, files, processes; neither models nor data."""
