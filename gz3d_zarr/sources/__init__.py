"""The archive: its listing, catalogue and manifest; verified bytes of its files."""
