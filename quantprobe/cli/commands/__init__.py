"""One file per command; a command only translates."""
