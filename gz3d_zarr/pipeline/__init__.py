"""Plan, build, resume, publish, copy and verify over dask."""
