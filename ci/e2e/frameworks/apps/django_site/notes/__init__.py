"""Notes with attachments."""
