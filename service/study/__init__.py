"""Studying: flashcards from documents."""
