"""Boxes as a viewer shows them: rectangles of the few in view, a picture of the many."""
