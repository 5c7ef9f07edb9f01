"""The use of what was trained: measured, exported and asked."""
