"""Pictures and models in an S3 bucket, with copies on this machine. The only import of boto3."""

import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from core.config import Settings
from core.copies import Copies
from core.errors import NotFound, StorageAway
from core.storage import CHUNK, GONE, Storage, Stored, checked_key, need_disk

try:
    import boto3
    from boto3.exceptions import Boto3Error
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError as missing:
    _MESSAGE = f'THAW_S3_BUCKET needs the Python package "{missing.name}". Install Thaw with its extra `s3`.'
    raise RuntimeError(_MESSAGE) from missing

_log = logging.getLogger(__name__)
TRIES = 3  # of a fetch whose stream broke off; boto3 itself repeats requests that were not answered
MOST_DELETED = 1000  # objects that S3 deletes with one request
_ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
_BLOBS = "blobs/"
_MAKING = threading.Lock()  # clients are for many threads, making them is not


class BucketStorage(Storage):
    """A bucket. Objects are written whole by S3 itself; the bytes of pictures are checked against the SHA-256 in their key."""

    parallel = 16

    def __init__(self, client: Any, bucket: str, prefix: str, copies: Copies, *, reserve_bytes: int) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._copies = copies
        self._reserve = reserve_bytes

    def put(self, key: str, source: Path | bytes, *, move: bool = False) -> None:  # noqa: ARG002 - always sent
        """See `Storage.put`."""
        with self._asking():
            if isinstance(source, bytes):
                self._client.put_object(Bucket=self._bucket, Key=self._name(key), Body=source)
            else:
                self._client.upload_file(os.fspath(source), self._bucket, self._name(key))

    def has(self, key: str) -> bool:
        """See `Storage.has`: asks the bucket, whatever is here."""
        try:
            with self._asking():
                self._client.head_object(Bucket=self._bucket, Key=self._name(key))
        except NotFound:
            return False
        return True

    def local(self, key: str) -> Path:
        """See `Storage.local`: a copy."""
        return self._copies.find(checked_key(key)) or self._fetch(key)

    def local_tree(self, key: str) -> Path:
        """See `Storage.local_tree`: copies."""
        found = [self.local(one.removeprefix(self._prefix)) for one in self._names(key)]
        if not found:
            raise NotFound(GONE)
        return self._copies.folder / key

    def keep(self, key: str, folder: Path) -> Path:
        """See `Storage.keep`: a second name of the copy, which outlives the first."""
        target = folder / checked_key(key)
        if target.exists():
            return target
        copy = self.local(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(copy)
        except OSError:  # a file system without hard links
            shutil.copyfile(copy, target)
        return target

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        names = [self._name(key), *self._names(key)]
        for start in range(0, len(names), MOST_DELETED):
            objects = [{"Key": name} for name in names[start : start + MOST_DELETED]]
            with self._asking():
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):
                raise StorageAway(f"The bucket did not delete {key}: {answer['Errors'][0].get('Message')}.")
        self._copies.forget(key)

    def listing(self, key: str) -> Iterator[Stored]:
        """See `Storage.listing`."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=f"{self._name(key)}/"
        )
        turning = iter(pages)
        while True:
            with self._asking():
                page = next(turning, None)
            if page is None:
                return
            for one in page.get("Contents", ()):
                yield Stored(one["Key"].removeprefix(self._prefix), one["Size"], one["LastModified"].timestamp())

    def stored(self, key: str) -> Iterator[bytes]:
        """See `Storage.stored`."""
        with self._asking():
            answer = self._client.get_object(Bucket=self._bucket, Key=self._name(key))
        with closing(answer["Body"]) as body:
            pieces = body.iter_chunks(CHUNK)
            while True:
                with self._asking():
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece

    def _name(self, key: str) -> str:
        return self._prefix + checked_key(key)

    def _names(self, key: str) -> list[str]:
        """Full names of everything below a key."""
        pages = self._client.get_paginator("list_objects_v2")
        with self._asking():
            found = pages.paginate(Bucket=self._bucket, Prefix=f"{self._name(key)}/")
            return [one["Key"] for page in found for one in page.get("Contents", ())]

    def _fetch(self, key: str) -> Path:
        for left in reversed(range(TRIES)):
            aside = self._copies.aside(key)
            try:
                self._download(key, aside)
                return self._copies.add(key, aside)
            except _BrokenOff as broken:
                if not left:
                    raise StorageAway(f"The bucket broke off three times while it sent {key}.") from broken
                _log.warning("the bucket broke off while it sent %s; once more", key)
            finally:
                aside.unlink(missing_ok=True)
        raise AssertionError("unreachable")

    def _download(self, key: str, aside: Path) -> None:
        """Write an object's bytes to a file, checked as far as can be."""
        digest, received = hashlib.sha256(), 0
        with self._asking():
            answer = self._client.get_object(Bucket=self._bucket, Key=self._name(key))
        size = int(answer["ContentLength"])
        need_disk(aside.parent, size, self._reserve)
        try:
            with aside.open("wb") as out, closing(answer["Body"]) as body:
                for piece in body.iter_chunks(CHUNK):
                    digest.update(piece)
                    received += len(piece)
                    out.write(piece)
        except BotoCoreError as error:
            raise _BrokenOff from error
        if received != size:
            raise _BrokenOff
        if key.startswith(_BLOBS) and digest.hexdigest() != key.rsplit("/", 1)[-1]:
            _log.error("%s in the bucket is damaged: its SHA-256 is %s", key, digest.hexdigest())
            raise NotFound("The file in the storage is damaged: its bytes are not those that were uploaded.")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _ABSENT:
                raise NotFound(GONE) from error
            raise StorageAway(f'The bucket "{self._bucket}" refuses: {error}') from error
        except (BotoCoreError, Boto3Error) as error:
            raise StorageAway(f'The bucket "{self._bucket}" does not answer now: {error}') from error


class _BrokenOff(Exception):
    """A stream ended too early."""


@cache
def _session() -> Any:
    """One session for the process: reading boto3's own data takes a second, once."""
    return boto3.session.Session()


def open_bucket(settings: Settings) -> BucketStorage:
    """The bucket of these settings. Nothing is asked of it yet."""
    # servers other than Amazon's are seldom reached as BUCKET.HOST
    style = {"addressing_style": "path"} if settings.s3_endpoint_url else {}
    config = Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 5},
        max_pool_connections=2 * BucketStorage.parallel,
        s3=style,
    )
    with _MAKING:
        client = _session().client("s3", endpoint_url=settings.s3_endpoint_url, config=config)
    copies = Copies(settings.copies_folder, settings.s3_cache_bytes)
    bucket, reserve = settings.s3_bucket or "", settings.disk_reserve_bytes
    return BucketStorage(client, bucket, settings.s3_prefix, copies, reserve_bytes=reserve)
