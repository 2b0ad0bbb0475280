"""The resume chatbot, put to the test: honest readers and liars answer questions about three resumes."""
