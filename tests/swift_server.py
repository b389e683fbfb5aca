"""Runs one server of OpenStack Swift; started by `object_stores` with the Python that has Swift.

Arguments: "rings" FOLDER PORT PORT PORT writes the rings of one device; NAME FOLDER runs a server.
"""

import ctypes
import sys
from pathlib import Path

PARTS = {"account": "account", "container": "container", "object": "object"}


def make_rings(folder: Path, ports: list[int]) -> None:
    from swift.common.ring import RingBuilder

    for name, port in zip(PARTS, ports, strict=True):
        builder = RingBuilder(4, 1, 0)
        device = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port}
        builder.add_dev({**device, "device": "d1", "weight": 1.0})
        builder.rebalance(seed=1)
        builder.get_ring().save(str(folder / f"{name}.ring.gz"))


def serve(name: str, folder: Path) -> int:
    ctypes.CDLL(None).prctl(1, 15)  # end with the process that started us, however it ends
    from swift.common import utils

    utils.SWIFT_CONF_FILE = str(folder / "swift.conf")  # for what looks there when it is imported
    from swift.common.wsgi import run_wsgi

    return int(run_wsgi(str(folder / f"{name}.conf"), f"{name}-server", verbose=True))


if __name__ == "__main__":
    if sys.argv[1] == "rings":
        make_rings(Path(sys.argv[2]), [int(port) for port in sys.argv[3:]])
    else:
        sys.exit(serve(sys.argv[1], Path(sys.argv[2])))
