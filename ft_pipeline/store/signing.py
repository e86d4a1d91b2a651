"""The key of a store: ECDSA on the curve P-256, so that OpenSSF `model-signing` and `openssl` can use it, too.

The private key is outside the store, in a folder of the user. The store has only the public key. Who can write to the
store, but does not have the private key, cannot sign what they change.

Signatures are DSSE envelopes of in-toto statements (https://github.com/secure-systems-lab/dsse).
"""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_pipeline.errors import UserError
from ft_pipeline.store.atomic_files import translate_write_errors

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

PUBLIC_KEY_NAME = "signing_key.pub"
"""The file in the store with the public key, as PEM."""
KEYS_FOLDER = "FT_KEYS"
"""Environment variable: the folder of private keys. Default: ft_pipeline/keys in the user's configuration folder."""
KEY_FILE = "FT_SIGNING_KEY"
"""Environment variable: a file with the private key, for example a mounted secret."""
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
ID_DIGITS = 16
"""Number of digits of a key's id in file names and messages."""


class KeyIdError(UserError):
    """A text is not a public key."""


class BadSignature(Exception):
    """An envelope is not signed with the expected key, or is no envelope. The message says which."""


@dataclass(frozen=True)
class SigningKey:
    """A private key of this machine."""

    path: Path
    """PEM, not encrypted."""
    key_id: str
    """Hex SHA-256 of the public key's DER form."""
    public_pem: bytes

    def sign(self, statement: dict[str, Any]) -> bytes:
        """Return a DSSE envelope of an in-toto statement, as one line of JSON."""
        from securesystemslib.dsse import Envelope
        from securesystemslib.signer import CryptoSigner

        payload = json.dumps(statement, ensure_ascii=False, separators=(",", ":")).encode()
        envelope = Envelope(payload, PAYLOAD_TYPE, {})
        envelope.sign(CryptoSigner(_load_private(self.path), _public_key(self.public_pem)))
        return json.dumps(envelope.to_dict(), separators=(",", ":")).encode()


def verify(envelope: bytes, public_pem: bytes) -> dict[str, Any]:
    """Return the statement in a DSSE envelope. Raises BadSignature if it is not signed with the key."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError

    try:
        parsed = Envelope.from_dict(json.loads(envelope))
        parsed.verify([_public_key(public_pem)], 1)
        statement = json.loads(parsed.payload)
        if parsed.payload_type != PAYLOAD_TYPE or statement["_type"] != STATEMENT_TYPE:
            raise BadSignature("is no in-toto statement")
    except VerificationError:
        raise BadSignature(f"is not signed with the key {key_id_of(public_pem)[:ID_DIGITS]}") from None
    except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadSignature("is no signed envelope") from error
    return statement


def keys_folder() -> Path:
    """Return the folder of private keys. It need not exist."""
    if named := os.environ.get(KEYS_FOLDER):
        return Path(named).expanduser().absolute()
    configuration = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(configuration).expanduser().absolute() / "ft_pipeline" / "keys"


def read_public_key(store: Path) -> bytes | None:
    """Return the public key of the store folder `store`, as PEM; None if the store is not signed."""
    path = store / PUBLIC_KEY_NAME
    return path.read_bytes() if path.is_file() else None


def key_id_of(public_pem: bytes) -> str:
    """Return the id of a public key in PEM form, as `openssl pkey -pubin -in KEY -outform der | sha256sum` does.

    KeyIdError if it is not a public key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(public_pem)
    except (ValueError, UnsupportedAlgorithm):
        message = "The public key is not in PEM form. Restore signing_key.pub, or name the right file."
        raise KeyIdError(message) from None
    return hashlib.sha256(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def find_key(store: Path) -> SigningKey | None:
    """Return the private key of the store folder `store`; None if the store is not signed.

    Raises UserError if it is signed, and the key is missing, is another one, or can be read by others.
    """
    public_pem = read_public_key(store)
    if public_pem is None:
        return None
    key_id = key_id_of(public_pem)
    named = os.environ.get(KEY_FILE)
    path = Path(named) if named else keys_folder() / f"{key_id[:ID_DIGITS]}.pem"
    if not path.is_file():
        raise UserError(
            f"The signing key {key_id[:ID_DIGITS]} of this store is missing ({path}). Restore it from a backup, or "
            "start with a new one: ft keys new --reason TEXT"
        )
    if not named and path.stat().st_mode & 0o077:
        raise UserError(f"Other users can read the signing key {path}. Run: chmod 600 {path}")
    found = read_key(path)
    if found.key_id != key_id:
        raise UserError(
            f"The key in {path} is {found.key_id[:ID_DIGITS]}, but this store is signed with {key_id[:ID_DIGITS]}. "
            f"Put that key there, or set {KEY_FILE}."
        )
    return found


def create_key() -> SigningKey:
    """Create a private key in the folder of keys, and return it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key_id = key_id_of(_public_pem(private))
    path = keys_folder() / f"{key_id[:ID_DIGITS]}.pem"
    with translate_write_errors():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    return SigningKey(path, key_id, _public_pem(private))


def new_store_key() -> SigningKey:
    """Return the key for a new store: the one that the environment names, else a new one."""
    named = os.environ.get(KEY_FILE)
    return read_key(Path(named)) if named else create_key()


def read_key(path: Path) -> SigningKey:
    """Return the private key in a file. UserError if it is none on the curve P-256."""
    public_pem = _public_pem(_load_private(path))
    return SigningKey(path, key_id_of(public_pem), public_pem)


def _load_private(path: Path) -> Any:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        raise UserError(f"{path} is not an unencrypted private key in PEM form. Name the right file.") from None
    except OSError as error:
        raise UserError(f"The signing key {path} cannot be read ({error.strerror}). Let this user read it.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise UserError(f"{path} is not a key on the curve P-256. Create one: ft keys new --reason TEXT")
    return key


def _public_pem(private: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    pem: bytes = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


@lru_cache(maxsize=16)
def _public_key(public_pem: bytes) -> "SSlibKey":
    from cryptography.hazmat.primitives import serialization
    from securesystemslib.signer import SSlibKey

    key = serialization.load_pem_public_key(public_pem)
    return SSlibKey.from_crypto(key, keyid=key_id_of(public_pem))
