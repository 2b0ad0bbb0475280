"""The answer cache: its key, its storages (memory, Redis), replay of stored answers, warming from a file."""
