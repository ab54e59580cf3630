"""What is wrong with a file: named checks with a reason, gates of a policy, and what a file is made of."""
