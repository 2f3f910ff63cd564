"""What applications are told of the client's own TLS connection.

Sources: https://asgi.readthedocs.io/en/latest/specs/tls.html, and for WSGI, which has no word for it, the variables of Apache's
mod_ssl that other servers have taken over. A certificate is there only with `--client-ca`, and then it is valid: without one
nobody gets in.
"""

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

Certificate = tuple[str, str, Sequence[bytes]]
"""Subject and issuer in the form of RFC 4514, and DER: the client's own certificate, then issuers that it sent along."""

_PEM_LINE_SIZE = 64
"""RFC 7468 §2."""
_PROTOCOLS = {0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}


def extension(version: int, cipher_suite: int, certificate: Certificate | None) -> dict[str, Any]:
    """ASGI's `scope["extensions"]["tls"]`. The server's own certificate is not in it: workers never see that."""
    subject, _, chain = certificate or ("", "", ())
    return {
        "server_cert": None,
        "client_cert_chain": [_pem(der) for der in chain],
        "client_cert_name": subject or None,
        "client_cert_error": None,
        "tls_version": version,
        "cipher_suite": cipher_suite,
    }


def variables(version: int, cipher_suite: int, certificate: Certificate | None) -> dict[str, str]:
    """What a WSGI environ has of it."""
    found = {"SSL_PROTOCOL": _PROTOCOLS.get(version, ""), "SSL_CLIENT_VERIFY": "NONE"}
    if certificate is None:
        return found
    subject, issuer, chain = certificate
    found |= {"SSL_CLIENT_VERIFY": "SUCCESS", "SSL_CLIENT_S_DN": subject, "SSL_CLIENT_I_DN": issuer}
    for place, der in enumerate(chain):
        found["SSL_CLIENT_CERT" if place == 0 else f"SSL_CLIENT_CERT_CHAIN_{place - 1}"] = _pem(der)
    return found


def _pem(der: bytes) -> str:
    text = b64encode(der).decode()
    lines = [text[start : start + _PEM_LINE_SIZE] for start in range(0, len(text), _PEM_LINE_SIZE)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])
