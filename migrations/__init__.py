"""The database schema, as plain SQL applied in order; forward only, and never edited once released."""
