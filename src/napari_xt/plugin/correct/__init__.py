"""Painting over a mask of any size, and what was corrected. Knows viewers; must not know Qt."""
