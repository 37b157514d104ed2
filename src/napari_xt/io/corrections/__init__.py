"""What people corrected of a prediction, on disk and in sight. Knows predictions; must not know viewers or models."""
