"""Words, tables and stories that the text skills are made of; no module here makes a case."""
