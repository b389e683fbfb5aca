"""The command line: a thin layer over the Python functions of the same names.

Results go to standard output, progress and messages to standard error. Exit status: 0 success,
1 error, 2 wrong usage, 3 finished with failed subjects, 130 interrupted.
"""

from gz3d_zarr.cli import examples, exports, pages, pictures, stores
from gz3d_zarr.cli.group import main

__all__ = ["examples", "exports", "main", "pages", "pictures", "stores"]
