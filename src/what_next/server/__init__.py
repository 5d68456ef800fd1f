"""The service: a trained agent behind an endpoint, and the log of what it showed and what happened next."""
