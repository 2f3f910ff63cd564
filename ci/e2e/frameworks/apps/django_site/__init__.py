"""A Django project: notes with attachments, and the admin site over them."""
