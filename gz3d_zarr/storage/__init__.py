"""Objects by key; shards and Zarr metadata as bytes; the lease."""
