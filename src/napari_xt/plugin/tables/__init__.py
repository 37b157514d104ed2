"""Predictions as tables: rows that are sorted and filtered whole, and the shapes that they are counted in."""
