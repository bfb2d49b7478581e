"""The configuration: its schema, how it is read and checked, and the views of it that the unprivileged roles get."""
