"""What a subject and a store are: constants, records, schema. Pure, no I/O."""
