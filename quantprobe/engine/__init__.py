"""The only package that touches llama_cpp and the native extension."""
