"""What the demo model can do, a module for each skill (`cases.py` says what a module offers)."""
