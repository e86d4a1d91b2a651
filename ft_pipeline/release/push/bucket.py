"""Push to S3, or to a store that speaks its protocol, through fsspec's s3fs (the extra `s3`).

Credentials and the server are those of AWS's own tools, as for sources in S3. Who can read the bucket is decided by the
bucket's own rules: this adds none. Each object has the SHA-256 of its file as metadata, so that a push that was
interrupted is completed by the next one.
"""

from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.release.disclosure.folder import SIGNATURES
from ft_pipeline.release.push.destination import Plan, ReportFile
from ft_pipeline.release.push.parcel import Parcel
from ft_pipeline.store.buckets import SCHEME, bucket_and_folder, bucket_errors, file_system

_NEEDS = "A push to S3 needs"
SHA256 = "sha256"
"""The key of the metadata of each object."""


class BucketPrefix:
    """A bucket, and the beginning of the keys in it."""

    def __init__(self, address: str) -> None:
        """address: `s3://BUCKET/PREFIX`. UserError if it has no prefix."""
        self._path = bucket_and_folder(address)

    def plan(self, parcel: Parcel) -> Plan:
        with bucket_errors(self._path, _NEEDS, "push again to continue"):
            present = self._present(file_system(_NEEDS))
        waiting = _missing(self._path, present, parcel)
        notes = ["Who can read it is decided by the rules of the bucket."]
        if present:
            notes.append(
                f"{len(parcel.hashes) - len(waiting)} of these files are there already, with the same content."
            )
        return Plan(f"{SCHEME}{self._path}", tuple(notes))

    def send(self, parcel: Parcel, report: ReportFile) -> str:
        with bucket_errors(self._path, _NEEDS, "push again to continue"):
            files = file_system(_NEEDS)
            waiting = _missing(self._path, self._present(files), parcel)
            for name in parcel.hashes:
                if name in waiting:
                    metadata = {SHA256: parcel.hashes[name]}
                    files.put_file(str(parcel.folder / name), f"{self._path}/{name}", Metadata=metadata)
                report(name)
        return f"{SCHEME}{self._path}"

    def _present(self, files: Any) -> dict[str, str | None]:
        """Return the objects below the prefix: name → SHA-256 in their metadata, None if they have none."""
        found = files.find(self._path)
        return {path.removeprefix(f"{self._path}/"): files.metadata(path).get(SHA256) for path in found}


def _missing(path: str, present: dict[str, str | None], parcel: Parcel) -> set[str]:
    """Return the files that are to be sent. UserError if something else is below the prefix.

    Signatures are sent again: they differ each time the same model is exported.
    """
    for name, sha256 in present.items():
        is_ours = name in parcel.hashes and (name in SIGNATURES or sha256 == parcel.hashes[name])
        if not is_ours:
            raise UserError(f"{SCHEME}{path}/{name} is not a file of this export. Choose another folder of the bucket.")
    return {name for name, sha256 in parcel.hashes.items() if present.get(name) != sha256}
