"""One table."""

from django.db import models


class Note(models.Model):
    title = models.CharField(max_length=100)
    file = models.FileField(upload_to="notes", blank=True)
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.title
