"""What the clients of one generator process do; one file for each scenario."""
