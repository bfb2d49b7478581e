"""The load-test harness: many real SSTP clients from one machine, against any SSTP server (see README.md)."""
