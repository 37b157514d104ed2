"""Images as a viewer shows them: what is read, when, and what is said of pixels that cannot be."""
