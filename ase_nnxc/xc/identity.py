"""Which functional it is: a digest of its numbers."""

import hashlib

from .architecture import UnknownArchitecture
from .functional import Functional


def functional_digest(functional: Functional) -> str:
    """Return the SHA-256 of the repr, the config and the tensors of a functional, hexadecimal."""
    try:
        config = functional.config()
    except UnknownArchitecture:  # of a part
        config = None
    digest = hashlib.sha256(f"{functional!r} {config!r}".encode())
    for name, tensor in functional.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
