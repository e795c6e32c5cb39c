"""Many learners: side by side on a leading axis, or spread over processes. Only commands may import from here."""
