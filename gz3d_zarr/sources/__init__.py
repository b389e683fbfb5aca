"""The archive: list it, its catalogue, its manifest; fetch bytes, verified."""
