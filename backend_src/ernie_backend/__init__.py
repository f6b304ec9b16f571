"""The serving backend: everything between a Triton request and a model step. Importing it does nothing."""
