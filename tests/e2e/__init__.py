"""End-to-end tests: the real processes of server and client, joined by network namespaces."""
