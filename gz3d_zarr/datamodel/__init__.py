"""Constants, records and schema of a subject and of a store. Pure: no I/O."""
