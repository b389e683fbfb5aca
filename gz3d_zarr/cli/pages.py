"""Commands that show a store in a browser."""

from __future__ import annotations

import webbrowser
from typing import Any

import click

import gz3d_zarr
from gz3d_zarr.cli.group import gather, handle_errors, main, print_result
from gz3d_zarr.cli.options import in_section, json_option, store_options


@main.command()
@click.argument("store")
@in_section(
    "Page",
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    default=0,
    help="Port on this machine. [default: a free one]",
)
@in_section(
    "Page", "--no-browser", is_flag=True, help="Print the link only; open it by other means."
)
@store_options
@handle_errors
def view(store: str, port: int, no_browser: bool, **options: Any) -> None:
    """Show the galaxies of STORE in a browser, until Ctrl-C.

    STORE is a path or a URL, such as s3://bucket/gz3d.zarr with its credentials: the page is
    served on this machine only, and reads the store through it.
    """
    from gz3d_zarr.storage.object_store import open_object_store
    from gz3d_zarr.viewer.view import serve_store

    opened = open_object_store(store, gather(options)["storage_options"])
    with serve_store(opened, port, allows_frames=False) as server:
        try:
            click.echo(server.link)
            click.echo("The page is at this link until Ctrl-C.", err=True)
            if not no_browser and not webbrowser.open(server.link):
                click.echo("No browser was found here: open the link in one.", err=True)
            server.wait()
        except KeyboardInterrupt:
            click.echo("Closed.", err=True)


@main.command()
@click.argument("dest")
@in_section(
    "Page",
    "--store",
    metavar="STORE",
    help="Store that the page opens: its web address, or a path or URL on the same disk or in the "
    "same bucket. [default: DEST, if it is a store; else the page asks]",
)
@store_options
@json_option
@handle_errors
def page(dest: str, store: str | None, as_json: bool, **options: Any) -> None:
    """Write the web page that shows a store into DEST.

    DEST is a folder or a bucket, and may be the store itself. Everybody who can read the store's
    objects at a web address can then open the page there; it needs no server of its own.
    """
    report = gz3d_zarr.page(dest, store, **gather(options))
    print_result(report, as_json)
