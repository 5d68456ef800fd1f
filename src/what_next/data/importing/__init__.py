"""Imports foreign tables: recognises columns, reads times, ids and attributes, and rejects unusable rows."""
