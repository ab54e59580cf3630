"""Tables, plots, result files and pages; runs no model."""
