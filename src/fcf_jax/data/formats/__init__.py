"""Forms of files: text tables, lists, JSON lines and typed columns, each read into a `Table`."""
