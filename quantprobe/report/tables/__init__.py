"""Tables for terminals, Markdown and CSV."""
