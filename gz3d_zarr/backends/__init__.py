"""Open stores, sources and single files as xarray Datasets."""
