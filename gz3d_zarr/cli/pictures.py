"""Commands that draw subjects of a store."""

from __future__ import annotations

import warnings
from typing import Any

import click

import gz3d_zarr
from gz3d_zarr.analysis.picture_options import PictureOptions
from gz3d_zarr.cli.group import gather, handle_errors, main
from gz3d_zarr.cli.options import (
    picture_options,
    store_options,
)
from gz3d_zarr.datamodel.option_fields import option_specs
from gz3d_zarr.errors import LeftOutWarning


@main.command()
@click.argument("store")
@click.argument("object_ids", metavar="OBJECT_ID...", nargs=-1, required=True)
@picture_options
@store_options
@handle_errors
def plot(store: str, object_ids: tuple[str, ...], output: str, **options: Any) -> None:
    """Draw one subject of STORE, or several on a contact sheet.

    OBJECT_ID is a MaNGA id, which draws all its rows, or a Zooniverse subject id.
    """
    from gz3d_zarr.analysis.plotting import save_picture

    picture = {name: options.pop(name) for name in option_specs(PictureOptions)}
    dataset = gz3d_zarr.open_store(store, **gather(options))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LeftOutWarning)
        save_picture(dataset, object_ids, output, **picture)
    for warning in caught:
        click.echo(f"Warning: {warning.message}", err=True)
    click.echo(output)
