"""Where everything is."""

from django.contrib import admin
from django.urls import path

from django_site.notes import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", views.index),
    path("notes/new/", views.new),
    path("notes/<int:pk>/file/", views.download),
    path("stream/<int:count>/", views.stream),
    path("async/", views.asynchronous),
    path("meta/", views.meta),
    path("raw/", views.raw),
    path("fails/", views.fails),
]
