"""`python -m tests.experiments.resume`: puts the resume chatbot to the test; --write makes its page."""

import sys

from tests.experiments.resume.page import PAGE, page

if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
