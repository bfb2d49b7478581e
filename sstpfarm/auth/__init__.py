"""The auth process: who may come in, and with which address. It alone knows the passwords and the leases."""
