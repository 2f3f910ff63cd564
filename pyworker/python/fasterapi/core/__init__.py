"""The processes behind the edge."""
