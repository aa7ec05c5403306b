"""What the REST API takes and gives, a file a noun; `app/presenting.py` fills it."""
