"""One module per group of paths. Routes have no `try`: what is raised becomes an answer in `errors.py`."""
