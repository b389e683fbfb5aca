"""Objects in S3 through obstore: a faster client than s3fs, with options of the same names."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from gz3d_zarr.errors import UsageError, access_errors

TRANSLATED = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "endpoint_url": "endpoint",
    "anon": "skip_signature",
}
"""Storage options of s3fs, and what obstore calls them."""
FIRST_ANSWER_SECONDS = 15
RETRY_SECONDS = 5
"""How long a server may take for one request up to its first answer, and how long one is tried."""
REQUEST_SECONDS = 300
"""How long a whole request may take later, a PUT's 23 MB on a slow line among it."""


class ObstoreBackend:
    """One place in a bucket.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``.
    options : mapping
        Storage options as s3fs has them.
    is_patient : bool
        Wait for the first answer as long as for any other.

    Raises
    ------
    UsageError
        obstore is not installed, the URL is of no S3 store, or an option has no counterpart.
    """

    def __init__(self, url: str, options: Mapping[str, Any], *, is_patient: bool) -> None:
        try:
            from obstore.exceptions import BaseError
            from obstore.store import S3Store
        except ImportError as error:
            raise UsageError(
                "the store backend obstore needs obstore: python3 -m pip install "
                "'gz3d-zarr[obstore]'"
            ) from error
        scheme, _, place = url.partition("://")
        bucket, _, prefix = place.partition("/")
        if scheme not in ("s3", "s3a"):
            raise UsageError(f"the store backend obstore is for s3:// URLs, not {url}")
        self._base_error: type[Exception] = BaseError
        place_and_options = {"prefix": prefix or None, **_translate(options)}

        def store(seconds: int, **more: Any) -> Any:
            # Also where the endpoint is in the environment; one of https stays so.
            limits: Any = {"allow_http": True, "timeout": f"{seconds}s"}
            return S3Store(bucket, client_options=limits, **place_and_options, **more)

        self._store = store(REQUEST_SECONDS)
        # Without an answer obstore would try for three minutes.
        self._first = store(
            FIRST_ANSWER_SECONDS, retry_config={"retry_timeout": timedelta(seconds=RETRY_SECONDS)}
        )
        self._answered = is_patient

    def put(self, key: str, data: bytes) -> None:
        """Write one object in one request."""
        self._try(lambda _: self._store.put(key, data, use_multipart=False))

    def get(self, key: str) -> bytes:
        """Read one object; FileNotFoundError where there is none."""
        data: bytes = self._try(lambda store: store.get(key).bytes().to_bytes())
        return data

    def list_sizes(self, prefix: str) -> dict[str, int]:
        """Keys below a prefix, with bytes."""
        pages = self._try(lambda store: list(store.list(prefix or None)))
        return {str(item["path"]): int(item["size"]) for page in pages for item in page}

    def delete(self, key: str) -> None:
        """Delete one object."""
        self._try(lambda store: store.delete(key))

    def _try(self, action: Callable[[Any], Any]) -> Any:
        """Errors of obstore as those of a file system."""
        try:
            found = action(self._store if self._answered else self._first)
        except access_errors() as error:  # FileNotFoundError among them
            self._answered = True
            if "NoSuchBucket" in str(error):
                raise FileNotFoundError("The specified bucket does not exist") from error
            raise
        except self._base_error as error:
            told = re.search(r"<Message>([^<]*)</Message>", str(error))
            words = told[1] if told else " ".join(str(error).partition("<?xml")[0].split())
            words = re.sub(r"://[^/@\s]*@", "://", words)  # an endpoint may come with a password
            if "error sending request" in words:
                words = "could not connect to the endpoint"
            elif "timed out" in words:
                words = "the endpoint does not answer in time"
            denied = any(w in str(error) for w in ("403", "401", "Forbidden", "AccessDenied"))
            raise (PermissionError if denied else OSError)(words[:300]) from error
        self._answered = True
        return found


def _translate(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of obstore; those of s3fs that only tune it are left out."""
    translated = {TRANSLATED[name]: options[name] for name in options if name in TRANSLATED}
    rest = {*options} - {*TRANSLATED, "client_kwargs", "max_concurrency", "use_listings_cache"}
    if rest:
        raise UsageError(
            f"storage option {', '.join(sorted(rest))} means nothing to obstore, which knows "
            f"{', '.join(TRANSLATED)} and client_kwargs.region_name"
        )
    region = options.get("client_kwargs", {}).get("region_name")
    if region:
        translated["region"] = region
    return translated


@functools.lru_cache(maxsize=8)
def _cached(url: str, options: str, is_patient: bool) -> ObstoreBackend:
    return ObstoreBackend(url, json.loads(options), is_patient=is_patient)


def obstore_backend(
    url: str, options: Mapping[str, Any], *, is_patient: bool = False
) -> ObstoreBackend:
    """The backend of a place; its connections are kept for the next call."""
    return _cached(url, json.dumps(dict(options), sort_keys=True), is_patient)
