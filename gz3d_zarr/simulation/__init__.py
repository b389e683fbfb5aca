"""Simulated archives, for demos and tests without the real one."""

from gz3d_zarr.simulation.archive import simulate_archive

__all__ = ["simulate_archive"]
