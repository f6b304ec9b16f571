"""The demo model: the data it learns from, the program that trains it, the one that measures it. Serving it needs nothing from here."""
