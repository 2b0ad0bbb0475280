"""What a run looks like: the live view in the terminal, and the HTML report with its picture."""
