"""What is kept of runs beside the one that goes on: those before, those that wait, those that others write."""
