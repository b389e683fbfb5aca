"""Made-up archives, to try things on without the real one."""

from gz3d_zarr.simulation.archive import simulate_archive

__all__ = ["simulate_archive"]
