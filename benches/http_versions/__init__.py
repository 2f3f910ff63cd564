"""HTTP/2, HTTP/3 and TLS beside other servers: `python -m http_versions`."""
