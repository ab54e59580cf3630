"""Files of the Hugging Face hub as inputs, and results into its model cards."""
