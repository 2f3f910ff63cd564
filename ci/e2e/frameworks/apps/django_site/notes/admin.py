"""Notes in the admin site."""

from django.contrib import admin

from django_site.notes.models import Note


@admin.register(Note)
class NoteAdmin(admin.ModelAdmin):
    list_display = ("title", "created")
    search_fields = ("title",)
