"""The native packet path against `pure.py`: same packets, same controls, same counters; and what only it does."""
