"""RADIUS: authentication and accounting with outside servers (RFC 2865, 2866), and their orders (RFC 5176)."""
