"""Question files: recognise a format, read it, make questions from text."""
