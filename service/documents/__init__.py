"""Documents: what people upload, as text."""
