"""What tests share: a simulated archive, the reference files, a dask client, one store."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import hypothesis
import pytest
from distributed import Client, LocalCluster, default_client
from distributed.client import _del_global_client

import gz3d_zarr
from gz3d_zarr.simulation.archive import simulate_archive

if TYPE_CHECKING:
    from object_stores import S3Server

REFERENCE = Path(__file__).parents[2] / "shared" / "data" / "reference"
SUBJECTS = 18
IDLE = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "60s",
    "distributed.admin.tick.interval": "10s",
}
"""What a cluster watches of itself, several times a second in each process, and no test reads."""

hypothesis.settings.register_profile("tests", database=None, deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Schedulers keep files beside their workers' only where dask's configuration says so."""
    with dask.config.set({"temporary-directory": str(tmp_path_factory.mktemp("scratch"))}):
        yield


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of 18 subjects, with every edge case; never written to."""
    folder = tmp_path_factory.mktemp("simulated")
    simulate_archive(SUBJECTS, folder)
    return folder


@pytest.fixture
def archive(simulated: Path, tmp_path: Path) -> Path:
    """A copy of the simulated archive that a test may damage."""
    return Path(shutil.copytree(simulated, tmp_path / "archive"))


@pytest.fixture(scope="session")
def reference() -> Path:
    """The 64 files that the producer's own code wrote; tests skip where they are not there."""
    if not REFERENCE.is_dir():
        pytest.skip(f"the reference files are not at {REFERENCE}")
    return REFERENCE


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Two workers of one thread in this process."""
    with (
        dask.config.set(IDLE),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            dashboard_address="127.0.0.1:0",
            memory_limit="4GB",
            local_directory=str(tmp_path_factory.mktemp("dask")),
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def _no_default_client() -> None:
    """A task with a semaphore makes a client, and leaves it as the default one of this process."""
    with contextlib.suppress(ValueError):
        _del_global_client(default_client())
        dask.config.config.pop("scheduler", None)


@pytest.fixture(params=["threads", "client"])
def _scheduler(request: pytest.FixtureRequest) -> Iterator[None]:
    """What computes lazy values: threads of this process, and the client."""
    if request.param == "threads":
        with dask.config.set(scheduler="threads"):
            yield
    else:
        with request.getfixturevalue("client").as_current():
            yield


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    """S3 in this process."""
    from object_stores import close_sessions, run_moto  # slow to import

    with run_moto() as server:
        yield server
        close_sessions()


@pytest.fixture(scope="session")
def store(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete store of the simulated archive, in shards of 4; never written to."""
    path = tmp_path_factory.mktemp("store") / "gz3d.zarr"
    gz3d_zarr.build(simulated, path, client, shard_size=4)
    return path
