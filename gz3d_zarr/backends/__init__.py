"""Stores, sources and single files as xarray Datasets."""
