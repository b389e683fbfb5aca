"""``python -m gz3d_zarr``: the command line where no script is on the path."""

from gz3d_zarr.cli import main

if __name__ == "__main__":
    main(prog_name="gz3d-zarr")
