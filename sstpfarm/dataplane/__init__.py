"""The packet path: what stands between the decrypted SSTP bytes of a session and its TUN device."""
