"""Simulated providers on real sockets: HTTP/1.1, TLS, the admin API."""
