"""The store: what is kept in a database. SQLite or PostgreSQL, behind one small protocol (base.py)."""
