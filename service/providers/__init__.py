"""The dialects: how each kind of provider is asked, and how its answers, errors and usage are read."""
