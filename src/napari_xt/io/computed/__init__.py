"""Images that are made up where they are looked at: `synthetic`, `mirrored` and `nuclei`, as an `array` of any size."""
