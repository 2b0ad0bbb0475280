"""Jobs: background work in steps that are kept. A crash repeats at most the step that was under way."""
