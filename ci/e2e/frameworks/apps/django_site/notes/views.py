"""Pages: a list, a form with an upload, streams of both kinds, an asynchronous view."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator

from django import forms
from django.contrib.auth.decorators import login_required
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt

from django_site.notes.models import Note


class NoteForm(forms.ModelForm):
    class Meta:
        model = Note
        fields = ("title", "file")


def index(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"notes": [{"id": note.pk, "title": note.title} for note in Note.objects.order_by("pk")]})


@login_required
def new(request: HttpRequest) -> HttpResponse:
    form = NoteForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        note = form.save()
        return HttpResponseRedirect(f"/notes/{note.pk}/file/")
    page = f'<form method="post"><input name="csrfmiddlewaretoken" value="{get_token(request)}">{form.as_p()}</form>'
    return HttpResponse(page, status=400 if form.errors else 200)


@login_required
def download(request: HttpRequest, pk: int) -> HttpResponse:
    return FileResponse(get_object_or_404(Note, pk=pk).file.open(), as_attachment=True)


def stream(request: HttpRequest, count: int) -> HttpResponse:
    """An iterator of the kind that the interface can take without a thread or a copy."""

    def pieces() -> Iterator[str]:
        for number in range(count):
            yield f"{number}\n"

    async def async_pieces() -> AsyncIterator[str]:
        for number in range(count):
            yield f"{number}\n"

    is_asgi = hasattr(request, "scope")
    return StreamingHttpResponse(async_pieces() if is_asgi else pieces(), content_type="text/plain")


async def asynchronous(request: HttpRequest) -> HttpResponse:
    first, second = await asyncio.gather(Note.objects.acount(), asyncio.sleep(0, "slept"))
    return JsonResponse({"notes": first, "second": second})


def meta(request: HttpRequest) -> HttpResponse:
    keys = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "REMOTE_ADDR", "SERVER_NAME", "SERVER_PORT", "HTTP_X_TEST")
    return JsonResponse(
        {key: request.META.get(key) for key in keys} | {"uri": request.build_absolute_uri(), "scheme": request.scheme}
    )


@csrf_exempt
def raw(request: HttpRequest) -> HttpResponse:
    digest, size = hashlib.sha256(), 0
    while piece := request.read(64 * 1024):
        digest.update(piece)
        size += len(piece)
    return JsonResponse({"size": size, "sha256": digest.hexdigest()})


def fails(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("broken on purpose")
