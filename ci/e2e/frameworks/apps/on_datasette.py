"""Datasette over a database that the test made."""

import os

from datasette.app import Datasette

# Immutable: it may be downloaded.
app = Datasette([], immutables=[os.environ["DATABASE"]], settings={"max_returned_rows": 5000}).app()
