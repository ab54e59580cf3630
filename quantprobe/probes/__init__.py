"""Token sequences with scored positions, made from texts and from questions."""
