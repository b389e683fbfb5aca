"""What ``ds.gz3d`` does."""
