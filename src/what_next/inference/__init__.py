"""Trained models at work: recommendations, sessions, growing catalogues, export."""
