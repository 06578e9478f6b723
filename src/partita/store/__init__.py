"""PostgreSQL: the embedded server, connections, migrations, imports, the journal; the only shared component.

The connection string is the only interface: what works on the embedded server works on any other PostgreSQL.
"""
