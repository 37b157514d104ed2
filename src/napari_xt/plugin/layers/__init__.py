"""Predictions as a viewer shows them: what each layer holds and how it is looked at."""
