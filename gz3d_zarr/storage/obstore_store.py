"""Objects in S3 by obstore: a faster client than s3fs, with options of the same names."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from gz3d_zarr.errors import UsageError, access_errors, missing_extra_error, plural
from gz3d_zarr.storage.base_store import ObjectStore

TRANSLATED = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "endpoint_url": "endpoint",
    "anon": "skip_signature",
}
"""Storage options of s3fs, and their names in obstore."""
FIRST_ANSWER_SECONDS = 15
"""Limit of one request until the server has answered once."""
RETRY_SECONDS = 5
"""How long a request is repeated until the server has answered once."""
REQUEST_SECONDS = 300
"""Limit of any later request, such as a PUT of 23 MB on a slow line."""
UNSUPPORTED = re.compile(r"(?i)status[^/]{0,20}\b501\b|NotImplemented|NotSupported")
"""In the error of a client or a server that has no conditional writes."""


@dataclass(frozen=True)
class ObstoreStore(ObjectStore):
    """Objects below ``s3://bucket/prefix``; storage options are those of s3fs."""

    def _put(self, key: str, data: bytes, content_type: str = "") -> None:
        more = {"attributes": {"Content-Type": content_type}} if content_type else {}
        self._run(lambda store: store.put(key, data, use_multipart=False, **more), is_quick=False)

    def _create(self, key: str, data: bytes) -> bool:
        def create(store: Any) -> bool:
            from obstore.exceptions import AlreadyExistsError, PreconditionError

            try:
                store.put(key, data, use_multipart=False, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

        try:
            created: bool = self._run(create, is_quick=False)
        except OSError as error:
            if UNSUPPORTED.search(f"{type(error.__cause__).__name__}: {error.__cause__}"):
                raise NotImplementedError from error
            raise
        return created

    def _get(self, key: str, limit: int | None) -> bytes:
        def get(store: Any) -> bytes:
            result = store.get(key)
            if limit is not None and result.meta["size"] > limit:
                return b"".join(itertools.islice(result.stream(limit), 1))
            data: bytes = result.bytes().to_bytes()
            return data

        data: bytes = self._run(get)
        return data

    def _get_range(self, key: str, start: int, stop: int | None) -> bytes:
        def get(store: Any) -> bytes:
            if stop is not None:
                found = store.get_range(key, start=start, end=stop)
            else:
                found = store.get(key, options={"range": {"suffix": -start}}).bytes()
            data: bytes = found.to_bytes()
            return data

        data: bytes = self._run(get)
        return data

    def _get_size(self, key: str) -> int:
        return int(self._run(lambda store: store.head(key))["size"])

    def _list_sizes(self, prefix: str) -> dict[str, int]:
        pages = self._run(lambda store: list(store.list(prefix or None)))
        return {str(item["path"]): int(item["size"]) for page in pages for item in page}

    def _delete(self, key: str) -> None:
        self._run(lambda store: store.delete(key))

    def _run(self, request: Callable[[Any], Any], *, is_quick: bool = True) -> Any:
        options = json.dumps(dict(self.storage_options), sort_keys=True)
        return _open_client(self.url, options, self.is_patient).run(request, is_quick=is_quick)


class _Client:
    """Connections to one prefix of a bucket.

    Raises
    ------
    UsageError
        obstore is not installed, the URL is not of S3, or an option has no counterpart.
    """

    def __init__(self, url: str, options: Mapping[str, Any], *, is_patient: bool) -> None:
        try:
            from obstore.exceptions import BaseError
            from obstore.store import S3Store
        except ImportError as error:
            raise missing_extra_error("the store backend obstore", error, "obstore") from error
        scheme, _, path = url.partition("://")
        bucket, _, prefix = path.partition("/")
        if scheme not in ("s3", "s3a"):
            raise UsageError(f"the store backend obstore is for s3:// URLs, not {url}")
        self._base_error: type[Exception] = BaseError
        arguments = {"prefix": prefix or None, **_translate(options)}

        def open_store(seconds: int, **more: Any) -> Any:
            # http also where the endpoint is in the environment; https stays https.
            limits: Any = {"allow_http": True, "timeout": f"{seconds}s"}
            return S3Store(bucket, client_options=limits, **arguments, **more)

        retry = {"retry_timeout": timedelta(seconds=RETRY_SECONDS)}
        try:
            self._store = open_store(REQUEST_SECONDS)
            # Without an answer obstore would try for three minutes.
            self._first = open_store(FIRST_ANSWER_SECONDS, retry_config=retry)
        except BaseError as error:
            raise UsageError(
                f"the store {url} cannot be reached by obstore ({type(error).__name__}): a storage "
                "option has a wrong value"
            ) from None
        self._has_answered = is_patient

    def run(self, request: Callable[[Any], Any], *, is_quick: bool) -> Any:
        """Run a request; errors of obstore become those of a file system."""
        is_first = is_quick and not self._has_answered
        try:
            result = request(self._first if is_first else self._store)
        except access_errors() as error:  # FileNotFoundError among them
            self._has_answered = True
            if "NoSuchBucket" in str(error):
                raise FileNotFoundError("The specified bucket does not exist") from error
            raise
        except self._base_error as error:
            message = re.search(r"<Message>([^<]*)</Message>", str(error))
            words = message[1] if message else " ".join(str(error).partition("<?xml")[0].split())
            words = re.sub(r"://[^/@\s]*@", "://", words)  # an endpoint may hold a password
            if "error sending request" in words:
                words = "could not connect to the endpoint"
            elif "timed out" in words:
                words = "the endpoint does not answer in time"
            denied = any(w in str(error) for w in ("403", "401", "Forbidden", "AccessDenied"))
            raise (PermissionError if denied else OSError)(words[:300]) from error
        self._has_answered = True
        return result


def _translate(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of obstore; those that only tune s3fs are dropped."""
    translated = {TRANSLATED[name]: options[name] for name in options if name in TRANSLATED}
    rest = {*options} - {*TRANSLATED, "client_kwargs", "max_concurrency", "use_listings_cache"}
    if rest:
        raise UsageError(
            f"{plural(len(rest), 'storage option')} that obstore does not know; it knows "
            f"{', '.join(TRANSLATED)} and client_kwargs.region_name"
        )
    region = (options.get("client_kwargs") or {}).get("region_name")
    if region:
        translated["region"] = region
    return translated


@functools.lru_cache(maxsize=8)
def _open_client(url: str, options: str, is_patient: bool) -> _Client:
    """The client of a store; its connections are kept for the next call."""
    return _Client(url, json.loads(options), is_patient=is_patient)
